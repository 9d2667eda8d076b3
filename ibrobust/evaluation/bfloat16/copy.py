"""A faster copy of a model, rounded to bfloat16. It proposes classifications, which have to be verified."""

from __future__ import annotations

import io
import operator
from contextlib import redirect_stderr

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ibrobust.copied_module import copied
from ibrobust.evaluation.attacks.losses import margin
from ibrobust.evaluation.bfloat16.convolution import BFloat16Convolution
from ibrobust.evaluation.guarded_model import unguard
from ibrobust.evaluation.model_state import floating_dtypes, random_state

RELU = (F.relu, torch.relu, torch.relu_)
ADD = (operator.add, operator.iadd, torch.add)

# Half the distance between neighbouring numbers of bfloat16, relative to them.
ROUNDING = 2.0**-8


class NoCopyError(Exception):
    """A model cannot be copied; the message gives the reason."""


class LowPrecisionCopy:
    """Margins of a model with convolutions in bfloat16, and the scale of their rounding errors."""

    def __init__(self, graph: fx.GraphModule, taps: list[_Tap]) -> None:
        self._graph = graph
        self._taps = taps

    def margins(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return approximate margins of the label (B,), the scale (B,) of their rounding errors, and a floor.

        To first order, a relative error of the convolutions' outputs h changes the margin m by that share of |dm/dh|
        |h|. The scale also contains a tenth of the logits' range, in case the gradient vanishes. The floor (B,) is the
        rounding of the largest logit to bfloat16.
        """
        with torch.enable_grad():
            logits = self._graph(images.clone())  # it may work in place, like the model
            found = -margin(logits, labels)
            features = [tap.features for tap in self._taps if tap.features is not None]
            gradients = torch.autograd.grad(found.sum(), features)
        products = [
            gradient.flatten(1).norm(dim=1) * feature.detach().flatten(1).norm(dim=1)
            for gradient, feature in zip(gradients, features, strict=True)
        ]
        for tap in self._taps:
            tap.features = None
        logits = logits.detach()
        scales = torch.stack(products).norm(dim=0) + 0.1 * (logits.amax(dim=1) - logits.amin(dim=1))
        return found.detach(), scales, ROUNDING * logits.abs().amax(dim=1)


def low_precision_copy(model: nn.Module, image: Tensor) -> LowPrecisionCopy | None:
    """Return a copy of `model`, which is not changed; None if its forward pass cannot be read as a fixed graph.

    This is the case if it branches on the images, keeps state, has hooks, or has no convolution that would become
    faster. Batch normalisation after a convolution is folded into it; ReLU and sums are computed with it.

    Args:
        model: in evaluation mode, with float32 parameters without gradients.
        image: (1, C, H, W) in [0, 1], for a trial.
    """
    try:
        graph, low = _lowered(model, image, torch.bfloat16)
        taps = _insert_taps(graph, low)
        graph.recompile()
        if not taps:
            return None
        lowered = LowPrecisionCopy(graph, taps)
        with redirect_stderr(io.StringIO()):  # a graph that fails prints itself
            lowered.margins(image, torch.zeros(1, dtype=torch.long, device=image.device))
    except Exception:  # an outside model may raise any error; it is then evaluated as it is
        return None
    return lowered


def differentiable_copy(model: nn.Module, image: Tensor, *, dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    """Return a copy of `model` as in `low_precision_copy`, with a gradient of the logits in the images.

    That gradient is rounded to bfloat16 too. It is the gradient of the forward computation: a backward pass defined by
    the model itself is not in the copy.

    Args:
        model: in evaluation mode, with float32 parameters without gradients.
        image: (1, C, H, W) in [0, 1], for a trial.
        dtype: float32 for the same copy without rounding.

    Raises:
        NoCopyError: the model cannot be copied.
    """
    try:
        graph, _ = _lowered(model, image, dtype)
        graph.recompile()
        point = image.detach().clone().requires_grad_()
        with torch.enable_grad(), redirect_stderr(io.StringIO()):  # as above
            torch.autograd.grad(graph(point.clone()).sum(), point)
    except NoCopyError:
        raise
    except Exception as error:  # as above
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise NoCopyError(f"its forward pass is no fixed graph of float32 operations ({line.rstrip('.:')})") from error
    return graph


def _lowered(model: nn.Module, image: Tensor, dtype: torch.dtype) -> tuple[fx.GraphModule, set[fx.Node]]:
    """Return a copy with convolutions in `dtype`, not compiled yet, and its nodes of that dtype.

    Raises NoCopyError if a graph would differ from the model, and torch.fx's errors if it finds no graph.
    """
    model = unguard(model)
    if set(floating_dtypes(model)) - {torch.float32}:
        raise NoCopyError("it does not compute in float32")
    if any(_hooks(module) for module in model.modules()):
        raise NoCopyError("it has hooks")
    duplicate = copied(model)
    before, generators = _state(duplicate), random_state(image.device)
    duplicate(image.clone())
    if not _same(before, _state(duplicate)):
        raise NoCopyError("it keeps state from one call to the next")
    if generators != random_state(image.device):
        raise NoCopyError("it draws random numbers")  # a graph may contain one fixed draw of them
    module = fx.GraphModule(duplicate, _Tracer().trace(duplicate))
    for node in reversed(module.graph.nodes):
        # Nothing else: an in-place operation has an effect even if its result is not used.
        if not node.users and (_reads_shape(node) or node.target in (getattr, operator.eq, operator.ne)):
            module.graph.erase_node(node)
        # Of channels_last, which convolutions here give, there may be no such view.
        elif node.op == "call_method" and node.target == "view" and torch.dtype not in map(type, node.args):
            node.target = "reshape"
    low = _lower(module, dtype)
    if not low:
        raise NoCopyError("it has no convolution that would gain from it")
    return module, low


class _Tracer(fx.Tracer):
    """Traces a branch on a tensor's dtype as for float32; other branches on tensors cannot be traced."""

    def to_bool(self, obj: fx.Proxy) -> bool:
        node = obj.node
        if node.target in (operator.eq, operator.ne) and isinstance(node.args[1], torch.dtype):
            source = node.args[0]
            if isinstance(source, fx.Node) and source.target is getattr and source.args[1] == "dtype":
                return bool(node.target(torch.float32, node.args[1]))
        return super().to_bool(obj)


class _Tap(nn.Module):
    """The conversion of the last convolutions' outputs to float32; the gradient is taken with respect to them."""

    features: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.features = x.float().detach().requires_grad_()
        return self.features


def _lower(module: fx.GraphModule, dtype: torch.dtype) -> set[fx.Node]:
    """Replace convolutions in the graph, in place, by those in `dtype`, fused with the operations around them.

    Convolutions, ReLUs, sums and batch normalisation stay in `dtype`, and their nodes are returned; all others get
    float32.
    """
    graph = module.graph
    modules = dict(module.named_modules())
    convolutions: dict[fx.Node, BFloat16Convolution] = {}
    low: set[fx.Node] = set()
    for node in list(graph.nodes):
        kind = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(kind, (nn.Identity, nn.Dropout, nn.Dropout2d)) and not kind.training:
            _replace(graph, node, node.args[0])
        elif type(kind) is nn.Conv2d and kind.padding_mode == "zeros" and not isinstance(kind.padding, str):
            name = f"low_precision_{len(convolutions)}"
            convolutions[node] = BFloat16Convolution(kind, dtype)
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
        elif node.op.startswith("call_") and not _reads_shape(node) and any(a in low for a in node.all_input_nodes):
            for argument in {a for a in node.all_input_nodes if a in low}:
                with graph.inserting_before(node):
                    node.replace_input_with(argument, graph.call_method("float", (argument,)))
    for convolution in convolutions.values():
        convolution.round()
    graph.lint()
    return low


def _insert_taps(module: fx.GraphModule, low: set[fx.Node]) -> list[_Tap]:
    """Return the nodes that convert bfloat16 to float32 and have no convolution after them."""
    convolutions = {name for name, kind in module.named_modules() if isinstance(kind, BFloat16Convolution)}
    # Nodes with a convolution after them.
    followed = {node for node in module.graph.nodes if node.op == "call_module" and node.target in convolutions}
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


def _is_bare(node: fx.Node, convolutions: dict[fx.Node, BFloat16Convolution]) -> bool:
    """Return whether the convolution, without a sum or a ReLU, has exactly one user."""
    return len(node.users) == 1 and len(node.args) == 1 and not convolutions[node].relu


def _reads_shape(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in ("size", "dim")
    return node.target is getattr and "shape" in node.args


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
    graph: fx.Graph, node: fx.Node, convolutions: dict[fx.Node, BFloat16Convolution]
) -> tuple[fx.Node, fx.Node] | None:
    """Return a summand that is a convolution, and the other summand if it is computed before and can be fused."""
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
    """Return copies of the state that a forward pass could change outside a graph: tensors and plain attributes."""
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
