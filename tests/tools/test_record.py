"""A run beside the record: the committed metrics, the tolerances, and what cannot be compared."""

from pathlib import Path

import pytest
import yaml

from tests.checkouts import call
from tests.tools.conftest import RECORD, finish_run, run_tool, write_record
from tools.record import TOLERANCES, Deviation, compare, deviations, read_record, verdict
from vae.errors import InputError
from vae.evaluation.measures import MEASURES


def test_every_measure_has_a_tolerance_no_smaller_than_rounding() -> None:
    tolerances = yaml.safe_load(TOLERANCES.read_text())
    assert set(tolerances) == set(MEASURES)
    assert min(tolerances.values()) >= 0.0002


def test_the_tolerances_hold_what_two_processors_gave() -> None:
    seen = {"test_nll": (84.8604, 84.8635), "frechet_distance": (13.79, 14.41)}
    one, other = ({name: pair[place] for name, pair in seen.items()} for place in (0, 1))
    assert all(row.agrees for row in deviations(one, other))


def test_the_table_of_a_run_shows_the_record(recorded: Path) -> None:
    write_record(recorded, RECORD | {"test_nll": 84.5})
    output = run_tool("show", recorded).stdout
    assert "| test_nll         |  84.5 |  84.86 |       0.23 |" in output
    assert output.endswith("\nThe run differs from the record by more than the tolerance: test_nll (-0.36).\n")


def test_differences_are_compared_as_written() -> None:
    # 0.3 - 0.1 is a little more than 0.2 in binary.
    assert Deviation("a", 0.3, 0.1, 0.2).agrees
    assert not Deviation("a", 0.3001, 0.1, 0.2).agrees
    assert Deviation("unknown", 5.0, 1.0, None).agrees
    assert not Deviation("unknown", None, 1.0, None).agrees


def test_a_relaxed_bernoullis_metrics_have_the_tolerances_of_the_others() -> None:
    (row,) = deviations({"relaxed_test_nll": 100.0}, {"relaxed_test_nll": 101.0})
    assert row.tolerance == yaml.safe_load(TOLERANCES.read_text())["test_nll"]
    assert verdict([row]).endswith("relaxed_test_nll (-1).")


def test_settings_without_effect_do_not_prevent_a_comparison(recorded: Path) -> None:
    write_record(recorded, RECORD, checkpoint_every=1, keep_checkpoint=True)
    assert compare(recorded)


def test_settings_are_read_as_the_stages_read_them(recorded: Path) -> None:
    write_record(recorded, RECORD, epochs=10)
    call(recorded, "git", "commit", "--quiet", "--all", "--message=Ten epochs")
    path = recorded / "params.yaml"
    path.write_text(path.read_text().replace("epochs: 10", "epochs: 010"))
    assert compare(recorded), "not 8, as in YAML 1.1"


def test_without_git_there_is_no_record_and_no_column(tmp_path: Path) -> None:
    write_record(tmp_path, RECORD)
    finish_run(tmp_path)
    assert read_record(tmp_path) is None
    with pytest.raises(InputError, match="no record"):
        compare(tmp_path)
    output = run_tool("show", tmp_path).stdout
    assert "record" not in output.splitlines()[0]
    assert "Not compared with the record: metrics: no record" in output


def test_a_folder_within_a_repository_has_no_record_of_its_own(recorded: Path) -> None:
    (recorded / ".demo").mkdir()
    write_record(recorded / ".demo", RECORD)
    assert read_record(recorded / ".demo") is None


def test_the_committed_record_is_read(recorded: Path) -> None:
    write_record(recorded, {"test_nll": 1.0})
    assert read_record(recorded) == RECORD


def test_a_damaged_file_of_metrics_is_named(recorded: Path) -> None:
    (recorded / "metrics/evaluate.json").write_text('{"test_nll": ')
    done = run_tool("verify", recorded)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: metrics/evaluate.json: damaged (JSONDecodeError: ")
