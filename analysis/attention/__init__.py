"""Where pixels look: rows of attention maps, layer by layer, mean attention distances, and how alike layers' maps are.

For networks whose attention modules say where their tokens lie (:class:`archs.contract.AttentionModule`).
"""

from analysis.attention.look import LayerAttention, LookedAt, Row, look
from analysis.attention.similarity import Similarity
from analysis.attention.statistics import Representatives

__all__ = ["LayerAttention", "LookedAt", "Representatives", "Row", "Similarity", "look"]
