"""Table `prompts.synthetic`: what the teacher shall make up, and how.

In:  nothing.
Out: the section with its defaults.
Does not know: other tables, teachers, how prompts are judged.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from potstill.recipe.section import Section


class SyntheticKind(Section):
    """One kind of prompts that the teacher shall make up."""

    category: str = Field(min_length=1, description="Category of these prompts.")
    language: Literal["zh", "en"] = Field(description="Language they must be in; others are dropped.")
    systems: tuple[str, ...] = Field(
        (), description="System messages that steer what is asked; each prompt draws one. None: the template's own."
    )
    openings: tuple[str, ...] = Field(
        (), description="First words of a prompt; each draws one and the teacher goes on. None: it begins by itself."
    )
    share: float = Field(1.0, gt=0.0, description="Weight of this kind among all.")

    @property
    def name(self) -> str:
        """`office-zh`."""
        return f"{self.category}-{self.language}"


KINDS = (
    SyntheticKind(
        category="everyday",
        language="zh",
        systems=(
            "你是一个生活助手，回答用户关于做饭和饮食的问题。",
            "你是一个生活助手，回答用户关于家务、购物和花钱的问题。",
            "你是一个生活助手，回答用户关于健康、睡眠和运动的问题。",
            "你是一个生活助手，回答用户关于旅行、出行和天气常识的问题。",
            "你是一个生活助手，回答用户关于孩子、学习和考试的问题。",
            "你是一个生活助手，陪用户聊心情、朋友、家人和恋爱。",
        ),
        openings=("怎么", "为什么", "我", "有没有", "帮我", "请问", "给我", "孩子", "家里", "第一次", "最近", "推荐"),
        share=1.0,
    ),
    SyntheticKind(
        category="office",
        language="zh",
        systems=(
            "你是一个办公助手，帮用户写邮件和通知。",
            "你是一个办公助手，帮用户写周报、总结、计划和汇报。",
            "你是一个办公助手，帮用户修改和润色文字。",
            "你是一个办公助手，解答用户使用Excel、Word和PPT的问题。",
            "你是一个办公助手，帮用户写文案、标题和广告语。",
            "你是一个办公助手，回答用户关于开会、面试、同事和领导的问题。",
        ),
        openings=(
            "写一封",
            "帮我写",
            "写一",
            "给客户",
            "怎么",
            "Excel里",
            "我要",
            "请为",
            "开会",
            "给同事",
            "如何",
            "把",
        ),
        share=1.0,
    ),
    SyntheticKind(
        category="code",
        language="zh",
        systems=(
            "你是一个编程助手，解答用户的Python问题。",
            "你是一个编程助手，帮用户写简短的Python函数。",
            "你是一个编程助手，解答用户关于Shell命令和Linux的问题。",
            "你是一个编程助手，解答用户关于SQL的问题。",
            "你是一个编程助手，用中文解释编程概念。",
        ),
        openings=(
            "写一个",
            "用Python",
            "怎么",
            "为什么",
            "Python里",
            "如何",
            "SQL里",
            "Linux下",
            "请用",
            "什么是",
            "写个函数",
        ),
        share=1.0,
    ),
    SyntheticKind(
        category="everyday",
        language="en",
        systems=(
            "You are an assistant for everyday life. You answer questions about cooking, food and housework.",
            "You are an assistant for everyday life. You answer questions about health, sleep and sport.",
            "You are an assistant for everyday life. You answer questions about travel, shopping and money.",
            "You are an assistant for everyday life. You talk with people about family, friends, school and feelings.",
        ),
        openings=("How do I", "What is", "Why", "Can you", "I", "My", "Give me", "What should", "Is it", "Tell me"),
        share=0.5,
    ),
    SyntheticKind(
        category="office",
        language="en",
        systems=(
            "You are an office assistant. You help people to write e-mails and notices.",
            "You are an office assistant. You help people to write reports, summaries and plans.",
            "You are an office assistant. You help people with Excel, Word and presentations.",
            "You are an office assistant. You answer questions about meetings, interviews and colleagues.",
        ),
        openings=("Write an", "Write a", "How do I", "Draft a", "I need", "Can you", "What", "Suggest", "In Excel"),
        share=0.5,
    ),
    SyntheticKind(
        category="code",
        language="en",
        systems=(
            "You are a programming assistant. You answer questions about Python.",
            "You are a programming assistant. You write short Python functions.",
            "You are a programming assistant. You answer questions about the shell and Linux.",
            "You are a programming assistant. You answer questions about SQL.",
        ),
        openings=("Write a", "How do I", "What is", "Why", "Explain", "In Python", "How can", "What does", "Create a"),
        share=0.5,
    ),
)
"""What the golden prompts are about, in both languages. Left wholly open, the slot of a small teacher for code mostly
holds programs and what an assistant would say: systems give the topic, openings the voice of someone who asks."""


class SyntheticSection(Section):
    """Prompts that the teacher makes up itself: the user's turn of its chat template is left open."""

    count: int = Field(0, ge=0, description="Prompts to keep, after everything unusable is dropped; 0: none.")
    temperature: float = Field(1.0, ge=0.0, le=2.0, description="Sampling temperature; 0 is greedy.")
    top_p: float = Field(0.9, gt=0.0, le=1.0, description="Nucleus sampling: smallest set with this much probability.")
    top_k: int = Field(100, ge=1, description="Sample from this many tokens at most.")
    one_line: bool = Field(
        True, description="End a prompt with its first line: below it, small teachers answer their own question."
    )
    max_tokens: int = Field(96, ge=8, le=1024, description="Longest prompt, in teacher tokens.")
    tries: int = Field(4, ge=1, description="Prompts written at most for each one wanted, in every kind.")
    kinds: tuple[SyntheticKind, ...] = Field(
        KINDS, min_length=1, description="What is asked about, in which language, in which shares."
    )

    @model_validator(mode="after")
    def _kinds_differ(self) -> SyntheticSection:
        names = [kind.name for kind in self.kinds]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is there twice: give one kind several systems or openings instead")
        return self
