"""Whether somebody watches modules: then each is called by itself, in place of kernels for several of them."""

from __future__ import annotations

from torch import nn
from torch.nn.modules import module as module_hooks


def watched(*modules: nn.Module) -> bool:
    """Whether one of the modules, or every module, has hooks on its forward pass."""
    if module_hooks._global_forward_hooks or module_hooks._global_forward_pre_hooks:
        return True
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)
