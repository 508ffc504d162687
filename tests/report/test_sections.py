from vae.evaluation.measures import MEASURES
from vae.pictures import PICTURES
from vae.report.sections import HEADLINE, SECTIONS


def test_every_metric_and_every_picture_has_a_section():
    groups = {measure.group for measure in MEASURES.values()} | {picture.group for picture in PICTURES}
    assert groups == SECTIONS.keys() - {"others"}
    assert set(HEADLINE) <= MEASURES.keys()
