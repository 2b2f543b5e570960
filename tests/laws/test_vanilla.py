"""DCA in the text's form starts as the vanilla network: with alpha = 0, direct and weighted change no bit (DCA 3.2)."""

import pytest
import torch

from workbench.build import build

ATTENTIONS = ["se[reduction=2]-resnet20", "cra3-resnet20", "cbam[reduction=2]-resnet20", "aw-resnet20"]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def warmed(network):
    """Evaluation mode with random running statistics, so that BN does something."""
    for key, value in network.state_dict().items():
        if "running" in key:
            value.copy_(torch.rand_like(value) + (0.5 if key.endswith("var") else -0.5))
    return network.eval()


def joined(plain, name, schema):
    """A connected network with the weights of `plain`; only its connections are its own."""
    network = warmed(build(f"dca[form=text,schema={schema}]-{name}", classes=10))
    missing, unexpected = network.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all(".connection." in key for key in missing)
    return network


def set_alpha(network, value):
    alphas = [parameter for key, parameter in network.named_parameters() if key.endswith("alpha")]
    assert len(alphas) == sum(1 for _ in network.attentions()) - len({block.dim for block in network.attentions()})
    for alpha in alphas:
        alpha.data.fill_(value)


@pytest.mark.parametrize("name", ATTENTIONS)
@pytest.mark.parametrize("schema", ["direct", "weighted"])
def test_alpha_zero_is_the_vanilla_network(name, schema):
    plain = warmed(build(name, classes=10))
    connected = joined(plain, name, schema)
    pictures = torch.randn(2, 3, 32, 32)
    vanilla = plain.trace(pictures)[0]  # the recorded pass: alone, CRA takes a faster form with other roundings
    assert torch.equal(vanilla, connected(pictures))
    set_alpha(connected, 0.5)
    assert not torch.equal(vanilla, connected(pictures))  # witness: the path is taken
    set_alpha(connected, 0.0)
    assert torch.equal(vanilla, connected(pictures))


@pytest.mark.parametrize("name", ATTENTIONS)
def test_softmax_at_alpha_zero_is_not(name):
    plain = warmed(build(name, classes=10))
    pictures = torch.randn(2, 3, 32, 32)
    assert not torch.equal(plain.trace(pictures)[0], joined(plain, name, "softmax")(pictures))


@pytest.mark.parametrize("schema", ["direct", "weighted", "softmax"])
@pytest.mark.parametrize("form", ["text", "official"])
def test_gradients_reach_every_connection_and_are_finite(schema, form):
    """On a noise picture and on an empty one, where descriptors vanish."""
    network = build(f"dca[form={form},schema={schema}]-cbam[reduction=4]-resnet20", classes=10)
    for pictures in (torch.randn(2, 3, 16, 16), torch.zeros(2, 3, 16, 16)):
        network.zero_grad()
        network(pictures).square().sum().backward()
        missing = {key for key, parameter in network.named_parameters() if parameter.grad is None}
        assert all(key.startswith("layer1.0.") and ".connection." in key for key in missing)
        assert bool(missing) == (form == "official")  # witness: a missing gradient is seen
        assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
