"""The sweep over shares of old data, from its command line to its answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli import app
from harness.core.errors import ConfigError
from harness.core.rows import Split
from harness.data.sources import Files
from harness.sweep import mix
from harness.sweep.axes import expand

OWN = ["data=new.jsonl", "anchor=old.jsonl", "model=nursery-smoke-a"]


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentences of the words that the tiny models know: 50 new rows, 200 old ones."""
    monkeypatch.chdir(tmp_path)
    for name, rows in (("new", 50), ("old", 200)):
        records = [{"prompt": f"{i // 10 % 10} plus {i % 10} is", "completion": f"{name} {i // 100}"} for i in range(rows)]
        Path(f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)))


def test_shares_are_ascending_and_start_at_none() -> None:
    """The share 0 is what others are compared with, so it is always run."""
    assert mix.shares_of("0.25,0.05,0.05") == [0.0, 0.05, 0.25]
    assert mix.arms_of([0.0, 0.05]) == {
        "share-0": {"mitigation": "none"},
        "share-0.05": {"mitigation": "replay", "mitigation.loss_share": "0.05"},
    }


@pytest.mark.parametrize("text", ["", "0", "half", "0,1", "-0.1", "0.0001", "0.1;0.2", "nan"])
def test_other_shares_are_rejected(text: str) -> None:
    """Replay's share is from 0.001 to below 1."""
    with pytest.raises(ConfigError, match="--shares: got .*fix: --shares 0,0.05,0.25"):
        mix.shares_of(text)


def test_own_rows_are_held_out_and_the_rest_is_one_volume() -> None:
    """Of 50 rows ten are held out, of 40 all are trained on; both losses are on held-out rows."""
    found = dict(text.split("=", 1) for text in mix.overrides_of(OWN, 2))
    assert (found["data.held_out"], found["anchor.held_out"], found["data.volumes"]) == ("10", "40", "[40]")
    assert (found["target_suites"], found["probe_suites"], found["seed"]) == ("[target_nll]", "[anchor_nll]", "0,1")


def test_what_is_given_is_kept() -> None:
    """A target suite, probes besides the anchor's own, volumes, a name."""
    given = ["data=tinyworld-people", "anchor=old.jsonl", "probe_suites=[tinyworld]", "declared.margins={anchor_nll: 0.1, tinyworld: 0.03}"]
    given += ["data.volumes=[16]", "name=own", "anchor.held_out=7"]
    found = mix.overrides_of(given, 1)
    assert [text for text in found if text.startswith(("name", "data.volumes", "anchor.held_out", "target", "seed"))] == [
        *("data.volumes=[16]", "name=own", "anchor.held_out=7"),
        "seed=0",
    ]
    assert "probe_suites=[anchor_nll,tinyworld]" in found


def test_the_arms_differ_in_nothing_but_the_share() -> None:
    """The searched rate of share 0 counts for all, since rates are searched for each mitigation."""
    overrides = mix.overrides_of(["data=tinyworld-people", "anchor=tinyworld-base", "model=nursery-s", "data.volumes=[16]"], 1)
    plain, mixed = (one.config for one in expand(overrides, mix.arms_of([0.0, 0.25])).asked)
    assert plain.training == mixed.training
    assert plain.training.rate_of == {"mitigation": "none"}
    assert (plain.data, plain.anchor, plain.seed) == (mixed.data, mixed.anchor, mixed.seed)


def test_held_out_rows_that_the_other_source_trains_on_are_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    """An anchor with the new rows too: replay would train on the ten that are held out of them."""
    Path("both.jsonl").write_text("\n".join(Path(f"{name}.jsonl").read_text() for name in ("old", "new")))
    fix = "fix: remove from one of them the rows that both have"
    Path("other.jsonl").write_text(json.dumps({"prompt": "5 plus 5 is", "completion": "other"}))
    assert app.main(["mix", "data=new.jsonl", "anchor=both.jsonl", "model=nursery-smoke-a"]) == 2
    err = capsys.readouterr().err
    in_anchor = len(_ids("new.jsonl", 10, "test") & _ids("both.jsonl", 50, "train"))
    assert in_anchor > 0
    assert f"harness mix: anchor: got {in_anchor} held-out rows of data among its training rows; allowed: none; {fix}" in err
    assert err.count("harness: ") == 1
    assert app.main(["mix", "data=both.jsonl", "data.test=other.jsonl", "anchor=old.jsonl", "model=nursery-smoke-a"]) == 2
    err = capsys.readouterr().err
    assert f"harness mix: data: got 40 held-out rows of anchor among its training rows; allowed: none; {fix}" in err
    assert not Path("results").exists()


def _ids(path: str, held_out: int, split: Split) -> set[str]:
    return {row.id for row in Files(train=path, held_out=held_out).rows(split)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["anchor=old.jsonl"], "harness mix: data: got nothing"),
        (["data=new.jsonl"], "harness mix: anchor: got nothing"),
        ([*OWN, "seed=3"], "harness mix: seed: got a value; allowed: none: the shares are the arms; fix: --seeds N"),
        ([*OWN, "mitigation.fraction=0.1"], "harness mix: mitigation.fraction: got a value"),
        ([*OWN, "experiment=tiny"], "harness mix: experiment: got a value"),
        ([*OWN, "tuning=full,lora"], "harness mix: tuning: got full,lora; allowed: one value"),
        ([*OWN, "probe_suites=blimp"], "probe_suites: got blimp; allowed: a list"),
        ([*OWN, "--seeds", "0"], "--seeds: got 0; allowed: 1 or greater"),
        (["data=none.jsonl", *OWN[1:]], "data: got 'none.jsonl', a file that does not exist"),
        ([*OWN, "--shares", "0.99", "--seeds", "1"], "anchor: got 160 rows; allowed: at least 161"),
    ],
)
def test_wrong_input_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is written."""
    assert app.main(["mix", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("harness: ") == 1
    assert not Path("results").exists()


def test_the_answer_in_the_terminal_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """One share and one seed: a run each, the loss share reached, and the cost beyond share 0."""
    command = ["mix", *OWN, "data.volumes=[16]", "--shares", "0.3", "--seeds", "1", "declared.margin=9", "evaluation.limit=8"]
    assert app.main(command) == 0
    out, err = capsys.readouterr()
    assert "No old data is needed: without it, the loss is " in out
    assert "within the margin of 9.000" in out
    assert "2 run(s) done" in err
    assert app.main([*command, "--json"]) == 0
    out, err = capsys.readouterr()
    (found,) = json.loads(out)
    assert (found["answer"], found["share"], found["experiment"]) == ("found", 0.0, "mix")
    plain, mixed = found["shares"]
    assert (plain["asked"], plain["reached"], plain["tokens_beyond_share_0"]) == (0.0, 0.0, 0.0)
    assert mixed["asked"] == 0.3
    assert 0.3 <= mixed["reached"] < 0.5
    assert mixed["tokens_beyond_share_0"] == mixed["tokens"] - plain["tokens"] > 0
    assert [one["suite"] for one in (mixed["gain"], *mixed["losses"])] == ["target_nll", "anchor_nll"]
    assert "0 run(s) done, 2 already done" in err
