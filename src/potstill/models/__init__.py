"""Models: find a teacher, generate text, read and write GGUFs. Knows no recipe and no run."""
