"""Which warnings the tests turn into errors: those that this project's own code is to blame for."""

import warnings

import pytest

from tests.checkouts import ROOT

WARN = "import warnings; warnings.warn('old', {})"
OURS = sorted({path.parent.name for path in ROOT.glob("*/*.py")} - {"docs"})  # the notebook's source is no module


@pytest.mark.parametrize("category", ["DeprecationWarning", "FutureWarning", "UserWarning"])
@pytest.mark.parametrize("module", [*OURS, *(f"{name}.inner" for name in OURS), __name__])
def test_a_warning_from_this_projects_code_is_an_error(module, category):
    with pytest.raises(Warning, match="old"):
        exec(WARN.format(category), {"__name__": module})


@pytest.mark.parametrize("category", ["DeprecationWarning", "FutureWarning", "UserWarning"])
@pytest.mark.parametrize("module", ["torch.testing", "pandas.tests.frame", "vaex", "my.stages"])
def test_a_warning_from_another_package_is_none(module, category):
    with warnings.catch_warnings(record=True) as seen:
        exec(WARN.format(category), {"__name__": module})
    assert [str(warning.message) for warning in seen] == ["old"]
