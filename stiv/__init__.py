"""STIV (arXiv 2412.07730) in pure torch: model, flow, guidance, frames, checkpoints."""

from .ablations import ABLATIONS, ablation
from .config import MODELS, STIVConfig
from .model import STIVTransformer

__all__ = ["ABLATIONS", "MODELS", "STIVConfig", "STIVTransformer", "ablation"]
