from vae.pictures import PICTURES
from vae.pictures.picture import picture


def test_every_picture_has_its_words_and_a_name_of_its_own():
    assert len({entry.name for entry in PICTURES}) == len(PICTURES)
    for entry in PICTURES:
        assert entry.name.isidentifier()
        for words in (entry.title, entry.shows, entry.look):
            assert words.strip() == words != ""
        assert entry.shows.endswith(".") and entry.look.endswith("."), entry.name


def test_a_drawing_function_becomes_an_entry_with_its_name():
    @picture("samples", "Title", shows="What it shows.", look="How to read it.")
    def ladder(results):
        return f"drawn from {results}"

    assert ladder[:5] == ("ladder", "samples", "Title", "What it shows.", "How to read it.")
    assert ladder.draw("a run") == "drawn from a run"
    assert ladder.applies("any run")


def test_an_entry_may_apply_to_some_runs_alone():
    @picture("samples", "Title", "Shows.", "Look.", applies=lambda results: results == "this one")
    def sometimes(results):
        raise AssertionError

    assert sometimes.applies("this one")
    assert not sometimes.applies("another")
