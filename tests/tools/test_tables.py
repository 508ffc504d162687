"""Tables in Markdown."""

from tools.tables import table


def test_table_sets_numbers_to_the_right_and_leaves_gaps_empty():
    columns = {"what": "{name}", "ms": "{time:,.1f}"}
    rows = [{"name": "a", "time": 1234.56}, {"name": "b, longer"}, {"name": "c", "time": None}]
    assert table(columns, rows).splitlines() == [
        "| what      |      ms |",
        "| --------- | ------: |",
        "| a         | 1,234.6 |",
        "| b, longer |         |",
        "| c         |         |",
    ]
