"""Speed, side by side: ours and what a user would otherwise pick, in one run, taking turns.

In:  a run folder (its teacher, its answers, its healed student).
Out: results as JSON as they come, tables in Markdown.
Does not know: how anything is trained, read or written; every contestant has a script of its own in `runners/`.
"""
