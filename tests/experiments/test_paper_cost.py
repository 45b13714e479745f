"""The paper's training on paper."""

import pytest

from experiments.paper_cost import BATCH, PACKED, STEPS, SYSTEMS, PaperCost, plan, step_seconds
from llamo_jax.presets import LLMS, llamo_config


def test_as_many_samples_take_as_many_operations_in_steps_of_any_size() -> None:
    large, own = (plan("llama-3.2-1b", SYSTEMS[0], rows) for rows in (1024, BATCH / PACKED))
    assert large["flops"] == pytest.approx(own["flops"]) and own["steps"] == 350_000
    assert large["steps"] == round(350_000 * BATCH / PACKED / 1024)
    # A step moves all weights, however few its rows: small steps are bound by the network, large ones are not.
    assert own["binds"][2] == "network" and large["binds"][2] == "compute"
    assert own["days_at_bound"] > 20 * large["days_at_bound"]
    assert own["days_at_40"] == own["days_at_bound"] and large["days_at_40"] > large["days_at_bound"]


def test_days_and_dollars_by_hand() -> None:
    system, rows = SYSTEMS[-1], 128
    told, config = plan("llama-3.1-8b", system, rows), llamo_config(LLMS["llama-3.1-8b"])
    seconds = sum(
        steps * BATCH / PACKED / rows * max(step_seconds(config, system, stage, rows)[1].values())
        for stage, steps in STEPS.items()
    )
    assert told["days_at_bound"] == pytest.approx(seconds / 86400)
    assert told["dollars_at_bound"] == pytest.approx(seconds / 3600 * 8 * 6.88)


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    PaperCost().run()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 3 * len(SYSTEMS) * 2
    assert {line.count("|") for line in lines} == {9}
