"""potstill: small-batch knowledge distillation of chat models, for machines without a GPU."""

__version__ = "0.1.0"
