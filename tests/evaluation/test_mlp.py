"""MLP probes against a plain loop of torch's AdamW, and on targets that linear probes can and cannot predict."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pp_simve.evaluation import RidgeProbe
from pp_simve.evaluation.probes.mlp import MLPProbe, MLPRegressionProbe, MLPTraining

SMALL = MLPTraining(hidden=7, decays=(0.5, 30.0, 0.0), learning_rate=0.01, batch_size=32, epochs=12, patience=3, seed=5)


def features(rows: int, seed: int, width: int = 4) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def three_classes(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Classes 10, 20 and 40 by a curved boundary, with noise; a column of another scale and a constant one."""
    x = features(rows, seed)
    y = torch.stack([x[:, 0] * x[:, 1], x[:, 2], 0.5 * x[:, 3] ** 2 - 0.2], dim=1) + 0.3 * features(rows, seed + 50, 3)
    x = torch.cat([x[:, :3], 1e3 * x[:, 3:] + 70, torch.full((rows, 1), 0.1, dtype=torch.float64)], dim=1)
    return x, torch.tensor([10, 20, 40])[y.argmax(dim=1)]


def three_targets(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """A bent, a straight and a hidden target, of unlike scales."""
    x = features(rows, seed)
    hidden = features(rows, seed + 50, 1)[:, 0]
    return x, torch.stack([40 * x[:, 0] ** 2 - 9, 1e-3 * x[:, 1], hidden], dim=1)


def networks(x: Tensor, outputs: int, training: MLPTraining, loss: Callable[[Tensor, Tensor], Tensor]) -> list[list]:
    """For every decay, strongest first, the outputs of a network before any epoch and after each, as functions."""
    mean, scale = x.mean(0), x.std(0, correction=0)
    scale[scale < 1e-9] = 1.0
    found = []
    for decay in sorted(training.decays, reverse=True):
        # Drawn in this order: hidden weights, hidden biases, and an order of the rows every epoch.
        generator = torch.Generator().manual_seed(training.seed)
        hidden, out = nn.Linear(x.shape[1], training.hidden).double(), nn.Linear(training.hidden, outputs).double()
        reach = 1 / x.shape[1] ** 0.5
        with torch.no_grad():
            weight = torch.rand(x.shape[1], training.hidden, generator=generator) * 2 * reach - reach
            hidden.weight.copy_(weight.T)
            hidden.bias.copy_(torch.rand(1, training.hidden, generator=generator)[0] * 2 * reach - reach)
        nn.init.zeros_(out.weight)
        nn.init.zeros_(out.bias)
        groups = [
            {"params": [hidden.weight, out.weight], "weight_decay": decay},
            {"params": [hidden.bias, out.bias], "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(groups, lr=training.learning_rate)
        states = []
        for epoch in range(training.epochs + 1):
            if epoch:
                order = torch.randperm(len(x), generator=generator).numpy()
                for rows in np.array_split(order, int(np.ceil(len(x) / training.batch_size))):
                    optimiser.zero_grad()
                    loss(out(torch.relu(hidden((x[rows] - mean) / scale))), torch.from_numpy(rows)).backward()
                    optimiser.step()
            w, b, v, c = (p.detach().clone() for p in (hidden.weight, hidden.bias, out.weight, out.bias))
            states.append(lambda t, w=w, b=b, v=v, c=c: torch.relu((t - mean) / scale @ w.T + b) @ v.T + c)
        found.append(states)
    return found


def patient(errors: list[list], patience: int) -> tuple[int, int]:
    """(epoch, position of the decay) of the least error, where training would have ended; errors[epoch][decay]."""
    best, chosen, last = errors[0][0], (0, 0), 0
    for epoch in range(1, len(errors)):
        least = min(errors[epoch])
        if least < best:
            best, chosen, last = least, (epoch, errors[epoch].index(least)), epoch
        elif epoch - last >= patience:
            break
    return chosen


@pytest.mark.parametrize("seed", [0, 1])
def test_classification_equals_a_plain_loop(seed: int) -> None:
    (x, y), (validation_x, validation_y), (test_x, _) = (three_classes(n, seed) for n in (70, 40, 60))
    validation_y[3] = 99
    classes = torch.tensor([10, 20, 40])
    position = torch.searchsorted(classes, y)
    found = networks(x, 3, SMALL, lambda logits, rows: nn.functional.cross_entropy(logits, position[rows]))
    known = validation_y != 99

    def error(network: Callable[[Tensor], Tensor]) -> tuple[int, float]:
        logits = network(validation_x)
        loss = nn.functional.cross_entropy(logits[known], torch.searchsorted(classes, validation_y[known]))
        return int((classes[logits.argmax(1)] != validation_y).sum()), round(float(loss), 12)

    errors = [[error(states[epoch]) for states in found] for epoch in range(SMALL.epochs + 1)]
    epoch, decay = patient(errors, SMALL.patience)
    probe = MLPProbe(SMALL).fit(x, y, validation_x, validation_y)
    assert epoch > 0
    assert (probe.epoch, probe.decay) == (epoch, sorted(SMALL.decays, reverse=True)[decay])
    assert probe.validation_score == pytest.approx(1 - errors[epoch][decay][0] / 40)
    assert torch.equal(probe.predict(test_x), classes[found[decay][epoch](test_x).argmax(1)])


@pytest.mark.parametrize("seed", [0, 1])
def test_regression_equals_a_plain_loop_and_chooses_for_each_target(seed: int) -> None:
    (x, y), (validation_x, validation_y), (test_x, test_y) = (three_targets(n, seed) for n in (70, 40, 60))
    mean, scale = y.mean(0), y.std(0, correction=0)
    # The longest patience of any target rules: the plain loop is given all epochs.
    training = MLPTraining(**{**vars(SMALL), "epochs": 40, "patience": 40})
    found = networks(x, 3, training, lambda out, rows: ((out - (y[rows] - mean) / scale) ** 2).mean())
    probe = MLPRegressionProbe(training).fit(x, y, validation_x, validation_y)
    wanted = (validation_y - mean) / scale
    for target in range(3):
        errors = [
            [float((states[epoch](validation_x) - wanted)[:, target].square().mean()) for states in found]
            for epoch in range(training.epochs + 1)
        ]
        epoch, decay = patient(errors, training.patience)
        assert (int(probe.epoch[target]), float(probe.decay[target])) == (epoch, sorted(SMALL.decays)[::-1][decay])
        expected = found[decay][epoch](test_x)[:, target] * scale[target] + mean[target]
        torch.testing.assert_close(
            probe.predict(test_x)[:, target], expected, rtol=0, atol=1e-10 * float(scale[target])
        )
        total = (test_y[:, target] - test_y[:, target].mean()).square().sum()
        r2 = 1 - (test_y[:, target] - expected).square().sum() / total
        torch.testing.assert_close(probe.score(test_x, test_y)[target], r2, rtol=0, atol=1e-10)
    assert len(set(zip(probe.epoch.tolist(), probe.decay.tolist(), strict=True))) > 1


def test_training_ends_after_the_patience() -> None:
    x, validation_x = features(40, 0), features(30, 1)
    y, validation_y = x[:, :1] ** 2, validation_x[:, :1] ** 2
    mean, scale = y.mean(0), y.std(0, correction=0)
    # Steps so long that validation gets better and worse by turns.
    settings = {**vars(SMALL), "decays": (0.0,), "learning_rate": 0.1, "batch_size": 8, "epochs": 40}
    (states,) = networks(
        x, 1, MLPTraining(**settings), lambda out, rows: ((out - (y[rows] - mean) / scale) ** 2).mean()
    )
    wanted = (validation_y - mean) / scale
    errors = [[float((state(validation_x) - wanted).square().mean())] for state in states]
    found = []
    for patience in range(1, 13):
        training = MLPTraining(**{**settings, "patience": patience})
        found.append(int(MLPRegressionProbe(training).fit(x, y, validation_x, validation_y).epoch))
        assert found[-1] == patient(errors, patience)[0]
    assert len(set(found)) > 2


def test_a_target_that_cannot_be_learnt_keeps_its_start_and_stops_no_other() -> None:
    x, y = three_targets(70, 0)
    noise = features(40, 9, 1)
    constant = torch.full((70, 1), 3.0)
    probe = MLPRegressionProbe(SMALL).fit(x, constant, features(40, 1), torch.full((40, 1), 3.0))
    assert probe.epoch.tolist() == [0]
    assert torch.equal(probe.predict(x), constant.double())
    train_y = torch.cat([y[:, 1:2] * 1e3, features(70, 3, 1)], dim=1)
    validation_x = features(40, 1)
    validation_y = torch.cat([validation_x[:, 1:2], noise], dim=1)
    probe = MLPRegressionProbe(SMALL).fit(x, train_y, validation_x, validation_y)
    assert probe.epoch[0] > probe.epoch[1]


def test_solves_squares_and_products_where_the_ridge_probe_cannot() -> None:
    def curved(rows: int, seed: int) -> tuple[Tensor, Tensor]:
        x = features(rows, seed, 3).float()
        hidden = torch.randn(rows, generator=torch.Generator().manual_seed(seed + 50))
        return x, torch.stack([x[:, 0] ** 2, x[:, 1] * x[:, 2], x[:, 2], hidden], dim=1)

    train, validation, test = curved(800, 0), curved(400, 1), curved(800, 2)
    probe = MLPRegressionProbe(MLPTraining(learning_rate=5e-3, epochs=40))
    bent, product, straight, hidden = probe.fit(*train, *validation).score(*test).tolist()
    assert min(bent, product) > 0.95
    assert straight > 0.995
    assert abs(hidden) < 0.02
    assert (RidgeProbe().fit(*train, *validation).score(*test)[:2] < 0.05).all()
