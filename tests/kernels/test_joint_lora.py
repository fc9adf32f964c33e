"""Joint LoRA layers against PEFT's own, in float64, and in bf16 within rounding."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from aisle.kernels.joint_linear import LoraGroup, joined_columns
from aisle.kernels.joint_lora import AdapterCopies, join_lora, reads_other_inputs
from aisle.models.adapters import attach_lora
from aisle.models.half_precision import FAMILIES
from aisle.models.loading import load_base
from aisle.models.model_source import find_model
from aisle.types.encoder_settings import Overrides

OPTIONS = {
    "rank": 4,
    "alpha": 8,
    "dropout": 0.0,
    "target_modules": None,
    "use_dora": False,
    "use_rslora": True,
    "base_reference": "x",
    "base_revision": None,
}
EXACT = {"atol": 1e-12, "rtol": 1e-12}


class Attention(nn.Module):
    """Projections as transformers has them; `cross` reads keys and values from another input."""

    def __init__(self, *, outputs=(6, 6, 6), bias=True, cross=False):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(8, size, bias=bias) for size in outputs)
        self.cross = cross

    def forward(self, inputs):
        read = inputs.flip(1) if self.cross else inputs
        return torch.cat([self.q_proj(inputs), self.k_proj(read), self.v_proj(read)], dim=-1)


class Backbone(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.config = None
        self.first, self.second = Attention(**options), Attention(**options)
        self.out_proj = nn.Linear(sum(options.get("outputs", (6, 6, 6))), 8)

    def forward(self, inputs):
        between = self.out_proj(self.first(inputs).tanh())
        return self.second(between)


def adapted(backbone, *, targets=("q_proj", "k_proj", "v_proj"), **config):
    """Return the backbone with PEFT's LoRA layers whose B is not zero, in float64."""
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(0)
    settings = {"r": 2, "lora_alpha": 6, "init_lora_weights": False, "target_modules": list(targets)} | config
    return inject_adapter_in_model(LoraConfig(**settings), backbone).double()


def joined(backbone):
    fused = copy.deepcopy(backbone)
    join_lora(fused, FAMILIES)
    return fused


def outputs_and_gradients(backbone, inputs):
    """Return the outputs, and the gradients of the inputs and of every trained weight, by name."""
    backbone.zero_grad(set_to_none=True)
    inputs = inputs.clone().requires_grad_()
    outputs = backbone(inputs)
    (outputs**3).sum().backward()
    found = {name: one.grad for name, one in backbone.named_parameters() if one.requires_grad}
    return found | {"inputs": inputs.grad, "outputs": outputs.detach()}


def texts(seed=1):
    return torch.randn(3, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def assert_equal_to_peft(backbone, inputs=None):
    inputs = texts() if inputs is None else inputs
    fused = joined(backbone)
    expected, found = outputs_and_gradients(backbone, inputs), outputs_and_gradients(fused, inputs)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        torch.testing.assert_close(found[name], value, **EXACT, msg=lambda text, name=name: f"{name}: {text}")
    return fused


def joint_products(monkeypatch):
    """Return a list that gets the sizes of every group computed jointly."""
    from aisle.kernels.joint_linear import JointLinear

    sizes, apply = [], JointLinear.apply
    monkeypatch.setattr(
        JointLinear,
        "apply",
        lambda inputs, group, *rest: sizes.append(group.sizes) or apply(inputs, group, *rest),
    )
    return sizes


CASES = {
    "equal sizes": ({}, {}),
    "no biases": ({"bias": False}, {}),
    "grouped key heads": ({"outputs": (8, 4, 2)}, {}),
    "another scale": ({}, {"use_rslora": True}),
    "a single target": ({}, {"targets": ["q_proj"]}),
    "two targets": ({}, {"targets": ["q_proj", "v_proj"]}),
    "targets beyond attention": ({}, {"targets": ["q_proj", "k_proj", "v_proj", "out_proj"]}),
    "different ranks": ({}, {"rank_pattern": {"k_proj": 3}}),
    "different scales": ({}, {"alpha_pattern": {"v_proj": 1}}),
    "cross-attention": ({"cross": True}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_equal_peft_s(case):
    options, config = CASES[case]
    assert_equal_to_peft(adapted(Backbone(**options), **config))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, [[6, 6, 6]] * 2),
        ({"targets": ["q_proj"]}, [[6]] * 2),
        ({"targets": ["k_proj", "q_proj"]}, [[6, 6]] * 2),
        ({"rank_pattern": {"k_proj": 3}}, [[6, 6], [6]] * 2),
        ({"targets": ["q_proj", "k_proj", "v_proj", "out_proj"]}, [[6, 6, 6], [8], [6, 6, 6]]),
    ],
)
def test_layers_that_read_the_same_input_are_computed_together(config, expected, monkeypatch):
    backbone = joined(adapted(Backbone(), **config))
    sizes = joint_products(monkeypatch)
    backbone(texts())
    assert sizes == expected


def test_layers_that_read_different_inputs_are_computed_apart_from_then_on(monkeypatch):
    backbone = joined(adapted(Backbone(cross=True)))
    sizes = joint_products(monkeypatch)
    backbone(texts())
    backbone(texts())
    assert len(sizes) == 2  # the first guess in each of the modules
    assert reads_other_inputs(backbone)


def test_layers_that_read_the_same_input_are_not_reported():
    backbone = joined(adapted(Backbone()))
    backbone(texts())
    assert not reads_other_inputs(backbone)
    assert not reads_other_inputs(joined(adapted(Backbone(), lora_dropout=0.1)))


def test_frozen_weights_are_views_of_one_tensor_also_after_a_move():
    backbone = joined(adapted(Backbone()))
    for moved in (backbone, backbone.float()):
        moved(texts().to(next(moved.parameters()).dtype))
        attention = moved.first
        bases = [layer.get_base_layer() for layer in (attention.q_proj, attention.k_proj, attention.v_proj)]
        assert len({base.weight.untyped_storage().data_ptr() for base in bases}) == 1
        assert bases[0].weight.untyped_storage().nbytes() == sum(base.weight.nbytes for base in bases)
        assert len({base.bias.untyped_storage().data_ptr() for base in bases}) == 1


def test_a_model_first_called_in_inference_mode_trains_afterwards():
    backbone = adapted(Backbone())
    fused = joined(backbone)
    with torch.inference_mode():
        torch.testing.assert_close(fused(texts()), backbone(texts()), **EXACT)
    expected, found = outputs_and_gradients(backbone, texts()), outputs_and_gradients(fused, texts())
    torch.testing.assert_close(found, expected, **EXACT)


def test_changed_adapters_are_used_in_the_next_pass(shift_weights):
    backbone = adapted(Backbone())
    fused = joined(backbone)
    fused(texts())
    shift_weights(backbone, seed=3)
    shift_weights(fused, seed=3)
    with torch.no_grad():
        torch.testing.assert_close(fused(texts()), backbone(texts()), **EXACT)


def test_passes_before_the_backward_pass_do_not_change_its_gradient():
    backbone = adapted(Backbone())

    def gradients(model):
        model.zero_grad(set_to_none=True)
        (model(texts(1)) ** 3).sum().add((model(texts(2)) ** 3).sum()).backward()
        return [one.grad for one in model.parameters() if one.requires_grad]

    torch.testing.assert_close(gradients(joined(backbone)), gradients(backbone), **EXACT)


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputed_activations_give_the_same_gradients(reentrant, monkeypatch):
    backbone = adapted(Backbone())
    expected = outputs_and_gradients(joined(backbone), texts())
    for module in (backbone.first, backbone.second):
        plain = module.forward
        module.forward = lambda inputs, plain=plain: torch.utils.checkpoint.checkpoint(
            plain, inputs, use_reentrant=reentrant
        )
    fused = copy.deepcopy(backbone)
    fused.first, fused.second = backbone.first, backbone.second
    join_lora(fused, FAMILIES)
    torch.testing.assert_close(outputs_and_gradients(fused, texts()), expected, **EXACT)


def test_outputs_that_are_not_used_have_no_part_in_the_gradient():
    class Queries(Backbone):
        def forward(self, inputs):
            return super().forward(inputs)[..., :6]

    assert_equal_to_peft(adapted(Queries()))


def test_nothing_is_kept_after_the_last_layer():
    backbone = joined(adapted(Backbone()))
    inputs = texts()
    kept = weakref.ref(inputs)
    outputs = backbone(inputs)
    with torch.no_grad():
        del inputs, outputs
        gc.collect()
    assert kept() is None


def test_outputs_of_an_interrupted_pass_are_freed_by_the_next():
    backbone = joined(adapted(Backbone()))
    value = backbone.first.v_proj
    del backbone.first.v_proj
    inputs = texts()
    kept = weakref.ref(inputs)
    with pytest.raises(AttributeError):
        backbone(inputs)
    backbone.first.v_proj = value
    del inputs
    backbone(texts())
    gc.collect()
    assert kept() is None


def test_a_copy_that_shares_weights_computes_alike_and_leaves_the_original_alone():
    from aisle.kernels.packed_attention import shared_copy

    backbone = joined(adapted(Backbone()))
    expected = backbone(texts())
    weight = backbone.first.q_proj.get_base_layer().weight
    place = weight.data_ptr()
    torch.testing.assert_close(shared_copy(backbone)(texts()), expected, **EXACT)
    assert weight.data_ptr() == place


def test_without_its_adapter_a_layer_is_the_frozen_one():
    backbone = adapted(Backbone())
    fused = joined(backbone)
    for model in (backbone, fused):
        for layer in model.modules():
            if hasattr(layer, "enable_adapters"):
                layer.enable_adapters(False)
    torch.testing.assert_close(fused(texts()), backbone(texts()), **EXACT)


def test_lora_dropout_drops_inputs_of_each_layer_in_training_only(monkeypatch):
    backbone = adapted(Backbone(), lora_dropout=0.5)
    fused = joined(backbone)
    sizes = joint_products(monkeypatch)
    for model in (backbone, fused):
        torch.manual_seed(3)
        model.found = outputs_and_gradients(model, texts())
    torch.testing.assert_close(fused.found, backbone.found, **EXACT)
    assert not torch.equal(fused(texts()), fused(texts()))
    torch.testing.assert_close(fused.eval()(texts()), backbone.eval()(texts()), **EXACT)
    assert not sizes


def test_gradients_are_those_of_finite_differences():
    backbone = adapted(Attention(outputs=(4, 2, 2)))
    layers = [backbone.q_proj, backbone.k_proj, backbone.v_proj]
    group = LoraGroup(layers)
    refresh = AdapterCopies([group])
    parameters = [matrix for pair in group.matrices for matrix in pair]
    inputs = texts().requires_grad_()

    def outputs(inputs, *_):
        refresh(backbone, ())  # gradcheck moves the parameters themselves
        return tuple(group.output(number, inputs) for number in range(3))

    assert torch.autograd.gradcheck(outputs, (inputs, *parameters))


def test_adjacent_columns_are_joined_without_a_copy():
    whole = torch.randn(2, 5, 9)
    parts = [part.flatten(0, 1) for part in whole.split([4, 3, 2], dim=2)]
    view = joined_columns(parts)
    assert view.data_ptr() == whole.data_ptr()
    assert torch.equal(view, whole.flatten(0, 1))


@pytest.mark.parametrize(
    "parts",
    [
        [torch.ones(5, 3), torch.zeros(5, 3)],
        list(torch.arange(30.0).view(5, 6).split(3, dim=1))[::-1],
        [torch.arange(40.0).view(5, 8)[:, :3], torch.arange(40.0).view(5, 8)[:, 4:7]],
        [torch.arange(12.0).view(3, 4).T, torch.arange(4.0).view(4, 1)],
    ],
    ids=["apart", "wrong order", "a gap", "transposed"],
)
def test_other_columns_are_copied(parts):
    assert torch.equal(joined_columns(parts), torch.cat(parts, dim=1))


def test_weights_are_saved_under_peft_s_names_and_values(tiny_bert, tmp_path, shift_weights):
    from safetensors.torch import load_file

    base = load_base(find_model(str(tiny_bert)), overrides=Overrides())
    plain = attach_lora(base.backbone, **OPTIONS).eval()
    shift_weights(plain, seed=1)
    fused = copy.deepcopy(plain)
    join_lora(fused, FAMILIES)
    ids = torch.arange(100, 124).view(3, 8)
    fused(input_ids=ids, attention_mask=torch.ones_like(ids))

    assert plain.state_dict().keys() == fused.state_dict().keys()
    for name, model in (("plain", plain), ("fused", fused)):
        model.save_pretrained(tmp_path / name, save_embedding_layers=False)
    expected, found = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("plain", "fused")
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
