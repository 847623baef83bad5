from __future__ import annotations

import torch

from archs.layers.embedding import PatchEmbedding


def test_features_are_normalised_if_asked() -> None:
    x = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    y = PatchEmbedding(6, patch_norm=True)(x)
    assert torch.allclose(y.mean(-1), torch.zeros(2, 3, 4), atol=1e-6)
    assert torch.allclose(y.var(-1, unbiased=False), torch.ones(2, 3, 4), atol=1e-3)


def test_without_a_norm_features_pass_and_there_are_no_weights() -> None:
    embedding = PatchEmbedding(6, patch_norm=False)
    x = torch.randn(1, 2, 2, 6)
    assert torch.equal(embedding(x), x)
    assert not embedding.state_dict()
