import torch
import torch.nn.functional as F

from sparsenet.layers.layout import DenseLayout
from sparsenet.layers.lsconv import LSConv
from sparsenet.ops.ska import ska
from sparsenet.ops.windows import WindowGrid


def test_equals_its_definition_on_a_whole_map():
    torch.manual_seed(0)
    layer = LSConv(32)
    x = torch.randn(2, 9, 11, 32)
    scale = lambda cells: cells * 2 + 1  # noqa: E731
    out = layer(x, DenseLayout(WindowGrid((9, 11), 4)), scale)

    cells = scale(x)
    hidden = F.relu(layer.reduce(cells)).permute(0, 3, 1, 2)
    hidden = F.conv2d(hidden, layer.large.weight, layer.large.bias, padding=3, groups=16)
    weight = layer.norm(layer.predict(F.relu(layer.mix(hidden.permute(0, 2, 3, 1)))))
    # predicted in the order tap, kernel
    weight = weight.view(2, 9, 11, 9, 4).permute(0, 4, 3, 1, 2)
    expected = ska(cells.permute(0, 3, 1, 2), weight).permute(0, 2, 3, 1)
    torch.testing.assert_close(out, expected)


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    layer = LSConv(16, large_kernel=5)
    x = torch.randn(1, 6, 6, 16, requires_grad=True)
    layer(x, DenseLayout(WindowGrid((6, 6), 3)), torch.tanh).square().sum().backward()
    assert x.grad.abs().sum() > 0
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
