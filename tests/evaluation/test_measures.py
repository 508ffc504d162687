import subprocess
import sys

from vae.evaluation.measures import MEASURES


def test_every_metric_has_its_words_and_a_format_that_writes_numbers():
    for key, measure in MEASURES.items():
        assert all(words.strip() == words != "" for words in (measure.name, measure.unit, measure.meaning)), key
        assert float(format(0.5, measure.form).rstrip("%")) >= 0, key
    assert len({measure.name for measure in MEASURES.values()}) == len(MEASURES)


def test_what_metrics_mean_can_be_read_without_loading_what_computes_them():
    code = "import sys, vae.evaluation.measures; print([name for name in sys.modules if name in sys.argv[1:]])"
    heavy = ["torch", "pyro", "numpy", "sklearn", "matplotlib", "pandas", "pydantic"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
