"""A faster copy of a model, rounded to bfloat16: it proposes classifications, and proves none."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

# A convolution of so few channels, of the image that is, stays in float32: rounding the image itself makes the largest
# errors of all, and sparing that costs little.
FEW_CHANNELS = 4

RELU = (F.relu, torch.relu, torch.relu_)
ADD = (operator.add, operator.iadd, torch.add)


class LowPrecisionCopy:
    """Margins of a model whose convolutions are computed in bfloat16, and how far rounding could move each of them."""

    def __init__(self, graph: fx.GraphModule, taps: list[_Tap]) -> None:
        self._graph = graph
        self._taps = taps

    def margins(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return margins (B,), approximately those of the model, and the scale (B,) of their rounding errors.

        Whatever relative error the convolutions' outputs h have, to first order it moves the margin m by that share of
        |dm/dh| |h|. In the scale is a tenth of the logits' range besides, for where the gradient vanishes.
        """
        with torch.enable_grad():
            logits = self._graph(images)
            found = margins_of(logits, labels)
            features = [tap.features for tap in self._taps if tap.features is not None]
            gradients = torch.autograd.grad(found.sum(), features)
        products = [
            gradient.flatten(1).norm(dim=1) * feature.detach().flatten(1).norm(dim=1)
            for gradient, feature in zip(gradients, features, strict=True)
        ]
        for tap in self._taps:
            tap.features = None
        logits = logits.detach()
        return found.detach(), torch.stack(products).norm(dim=0) + 0.1 * (logits.amax(dim=1) - logits.amin(dim=1))


def margins_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return by how much (B,) the label's logit exceeds the largest of the other classes'."""
    own = logits.gather(1, labels[:, None])  # (B, 1)
    return own[:, 0] - logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)


def low_precision_copy(model: nn.Module, image: Tensor) -> LowPrecisionCopy | None:
    """Return a copy of `model`, which stays as it is; None where its forward pass cannot be read as a fixed graph.

    That is so where it branches on the images, keeps state, or has hooks; and where it has no convolution that would
    gain anything. Batch normalisation behind a convolution is folded into it, ReLU and sums are computed with it.

    Args:
        model: in evaluation mode, with float32 parameters that want no gradient.
        image: (1, C, H, W) in [0, 1], for a trial.
    """
    if any(_hooks(module) for module in model.modules()):
        return None
    try:
        duplicate = copy.deepcopy(model)
        before = _state(duplicate)
        duplicate(image)
        if not _same(before, _state(duplicate)):
            return None
        graph = fx.GraphModule(duplicate, _Tracer().trace(duplicate))
        graph.graph.eliminate_dead_code()
        taps = _lower(graph)
        graph.recompile()
        if not taps:
            return None
        lowered = LowPrecisionCopy(graph, taps)
        lowered.margins(image, torch.zeros(1, dtype=torch.long, device=image.device))
    except Exception:  # anything may happen in a model that is not ours; it is evaluated as it is then
        return None
    return lowered


class _Tracer(fx.Tracer):
    """Follows a branch on a tensor's dtype as a float32 tensor would; other branches on tensors cannot be followed."""

    def to_bool(self, obj: fx.Proxy) -> bool:
        node = obj.node
        if node.target in (operator.eq, operator.ne) and isinstance(node.args[1], torch.dtype):
            source = node.args[0]
            if isinstance(source, fx.Node) and source.target is getattr and source.args[1] == "dtype":
                return bool(node.target(torch.float32, node.args[1]))
        return super().to_bool(obj)


class _Convolution(nn.Module):
    """A convolution to bfloat16 in channels_last; from bfloat16 as well, except where it takes few channels."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight = conv.weight.detach()
        self.bias = None if conv.bias is None else conv.bias.detach()
        assert not isinstance(conv.padding, str)
        self.padding = list(conv.padding)
        self.stride = list(conv.stride)
        self.dilation = list(conv.dilation)
        self.groups = conv.groups
        self.relu = False
        self.dtype = torch.float32 if conv.in_channels <= FEW_CHANNELS else torch.bfloat16

    def fold(self, norm: nn.BatchNorm2d) -> None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            self.weight, self.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        self.weight, self.bias = weight.detach(), bias.detach()

    def round(self) -> None:
        self.weight = self.weight.to(self.dtype, memory_format=torch.channels_last)
        if self.bias is not None:
            self.bias = self.bias.to(self.dtype)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        x = x.to(self.dtype, memory_format=torch.channels_last)
        if other is not None:
            other = other.to(self.dtype)
        geometry = self.padding, self.stride, self.dilation, self.groups
        if x.device.type == "cpu" and fused_convolutions_work():
            if other is None:
                x = torch.ops.mkldnn._convolution_pointwise(
                    x, self.weight, self.bias, *geometry, "relu" if self.relu else "none", [], ""
                )
            else:
                x = torch.ops.mkldnn._convolution_pointwise.binary(
                    x, other, self.weight, self.bias, *geometry, "add", 1.0, "relu" if self.relu else None, [], None
                )
            return x.to(torch.bfloat16)
        x = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        if other is not None:
            x = x.add_(other)
        return (x.relu_() if self.relu else x).to(torch.bfloat16)


@cache
def fused_convolutions_work() -> bool:
    """Return whether this PyTorch has convolutions with ReLU and sum built in, of which no public name is known."""
    x = torch.ones(1, 16, 3, 3, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    weight = -torch.eye(16, dtype=torch.bfloat16)[:, :, None, None].expand(16, 16, 3, 3)
    weight = weight.contiguous(memory_format=torch.channels_last)
    geometry = ([1, 1], [1, 1], [1, 1], 1)
    try:
        alone = torch.ops.mkldnn._convolution_pointwise(x, weight, None, *geometry, "relu", [], "")
        added = torch.ops.mkldnn._convolution_pointwise.binary(
            x, 7 * x, weight, None, *geometry, "add", 1.0, "relu", [], None
        )
    except (AttributeError, RuntimeError, TypeError):
        return False
    # 7 less the neighbours that a pixel has, with itself.
    return not bool(alone.any()) and added[0].flatten(1).tolist() == 16 * [[3, 1, 3, 1, 0, 1, 3, 1, 3]]


class _Tap(nn.Module):
    """Where the last convolutions' outputs pass into float32; the gradient is taken with respect to what passes."""

    features: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.features = x.float().detach().requires_grad_()
        return self.features


def _lower(module: fx.GraphModule) -> list[_Tap]:
    """Put bfloat16 convolutions into the graph, in place, with what can be computed together with them.

    Convolutions, ReLUs, sums and batch normalisation stay in bfloat16; all else gets float32.
    """
    graph = module.graph
    modules = dict(module.named_modules())
    convolutions: dict[fx.Node, _Convolution] = {}
    low: set[fx.Node] = set()
    for node in list(graph.nodes):
        kind = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(kind, (nn.Identity, nn.Dropout, nn.Dropout2d)) and not kind.training:
            _replace(graph, node, node.args[0])
        elif type(kind) is nn.Conv2d and kind.padding_mode == "zeros" and not isinstance(kind.padding, str):
            name = f"low_precision_{len(convolutions)}"
            convolutions[node] = _Convolution(kind)
            module.add_submodule(name, convolutions[node])
            node.target = name
            low.add(node)
        elif type(kind) is nn.BatchNorm2d and kind.running_mean is not None and node.args[0] in low:
            source = node.args[0]
            if source in convolutions and _is_bare(source, convolutions):
                convolutions[source].fold(kind)
                _replace(graph, node, source)
            else:
                low.add(node)
        elif _is_relu(node, kind) and node.args[0] in low:
            source = node.args[0]
            if source in convolutions and len(source.users) == 1:
                convolutions[source].relu = True
                _replace(graph, node, source)
            else:
                low.add(node)
        elif _is_sum(node) and all(argument in low for argument in node.args):
            pair = _convolution_of_sum(graph, node, convolutions)
            if pair is None:
                low.add(node)
            else:
                source, other = pair
                source.args = (source.args[0], other)
                _replace(graph, node, source)
        elif node.op in ("call_module", "call_function", "call_method") and any(a in low for a in node.all_input_nodes):
            for argument in {a for a in node.all_input_nodes if a in low}:
                with graph.inserting_before(node):
                    node.replace_input_with(argument, graph.call_method("float", (argument,)))
    for convolution in convolutions.values():
        convolution.round()
    taps = _insert_taps(module, low, convolutions)
    graph.lint()
    return taps


def _insert_taps(module: fx.GraphModule, low: set[fx.Node], convolutions: Iterable[fx.Node]) -> list[_Tap]:
    """Return what now stands where bfloat16 passes into float32 and no convolution follows."""
    followed = set(convolutions)  # nodes from which a convolution is reached
    for node in reversed(module.graph.nodes):
        if any(user in followed for user in node.users):
            followed.add(node)
    taps: list[_Tap] = []
    for node in list(module.graph.nodes):
        last = node not in followed
        if node.op == "call_method" and node.target == "float" and node.args[0] in low and last:
            taps.append(_Tap())
            name = f"tap_{len(taps)}"
            module.add_submodule(name, taps[-1])
            node.op, node.target = "call_module", name
    return taps


def _replace(graph: fx.Graph, node: fx.Node, by: object) -> None:
    assert isinstance(by, fx.Node)
    node.replace_all_uses_with(by)
    graph.erase_node(node)


def _is_bare(node: fx.Node, convolutions: dict[fx.Node, _Convolution]) -> bool:
    """Return whether nothing but its one user sees the convolution itself, without a sum or a ReLU."""
    return len(node.users) == 1 and len(node.args) == 1 and not convolutions[node].relu


def _is_relu(node: fx.Node, kind: nn.Module | None) -> bool:
    if node.op == "call_method":
        return node.target in ("relu", "relu_")
    return type(kind) is nn.ReLU or (node.op == "call_function" and node.target in RELU)


def _is_sum(node: fx.Node) -> bool:
    plain = len(node.args) == 2 and not node.kwargs
    return plain and (
        (node.op == "call_function" and node.target in ADD) or (node.op == "call_method" and node.target == "add")
    )


def _convolution_of_sum(
    graph: fx.Graph, node: fx.Node, convolutions: dict[fx.Node, _Convolution]
) -> tuple[fx.Node, fx.Node] | None:
    """Return a summand that is a convolution, and the other, computed before it, so that it can be added on the way."""
    order = {member: position for position, member in enumerate(graph.nodes)}
    first, second = node.args
    for source, other in ((first, second), (second, first)):
        assert isinstance(source, fx.Node)
        assert isinstance(other, fx.Node)
        if source in convolutions and _is_bare(source, convolutions) and order[other] < order[source]:
            return source, other
    return None


def _hooks(module: nn.Module) -> bool:
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, name, None) for name in names)


def _state(model: nn.Module) -> dict[str, object]:
    """Return copies of what a forward pass could change and a graph would not hold: tensors and plain attributes."""
    state: dict[str, object] = {}
    for prefix, module in model.named_modules():
        for name, value in [*module.named_buffers(recurse=False), *vars(module).items()]:
            if isinstance(value, Tensor):
                state[f"{prefix}.{name}"] = value.detach().clone()
            elif name[0] != "_":
                # By their text, so that lists and dictionaries count as well.
                state[f"{prefix}.{name}"] = repr(value)
    return state


def _same(before: dict[str, object], after: dict[str, object]) -> bool:
    if before.keys() != after.keys():
        return False
    return all(
        torch.equal(value, after[name]) if isinstance(value, Tensor) else value == after[name]  # type: ignore[arg-type]
        for name, value in before.items()
    )
