"""What is asked for: the whole of a run as one TOML file, validated. Every default of the project lives here.

In:  a TOML file written by a person.
Out: a frozen `Recipe`, its sections, and the reading of recipe files.
Does not know: run folders, stages, models, this machine.
"""

from potstill.recipe.loading import (
    load_recipe,
    validate_recipe,
    with_evaluation,
    with_options,
    with_server,
    with_target,
    with_types,
)
from potstill.recipe.material import (
    AnswersSection,
    BindingSection,
    PromptFile,
    PromptsSection,
    SignalsSection,
    TeacherSection,
    VocabSection,
)
from potstill.recipe.product import GATES, EvaluateSection, EvaluationFile, ExportSection
from potstill.recipe.section import Quantisation, Section
from potstill.recipe.storage import StorageSection
from potstill.recipe.student import (
    AttentionPair,
    ConsistencySection,
    DistillSection,
    FinishSection,
    HiddenPair,
    JointSection,
    LoraSection,
    LossesSection,
    OnPolicySection,
    PruneSection,
    TailSection,
    TemperatureSection,
)
from potstill.recipe.synthetic import SyntheticKind, SyntheticSection
from potstill.recipe.whole import Recipe

__all__ = [
    "GATES",
    "AnswersSection",
    "AttentionPair",
    "BindingSection",
    "ConsistencySection",
    "DistillSection",
    "EvaluateSection",
    "EvaluationFile",
    "ExportSection",
    "FinishSection",
    "HiddenPair",
    "JointSection",
    "LoraSection",
    "LossesSection",
    "OnPolicySection",
    "PromptFile",
    "PromptsSection",
    "PruneSection",
    "Quantisation",
    "Recipe",
    "Section",
    "SignalsSection",
    "StorageSection",
    "SyntheticKind",
    "SyntheticSection",
    "TailSection",
    "TeacherSection",
    "TemperatureSection",
    "VocabSection",
    "load_recipe",
    "validate_recipe",
    "with_evaluation",
    "with_options",
    "with_server",
    "with_target",
    "with_types",
]
