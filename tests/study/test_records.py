"""Records are one tidy table: pandas reads it as it stands."""

from __future__ import annotations

import math

import pandas as pd

from ibrobust.records import COLUMNS, read_study_records
from ibrobust.study import expand, gather_records
from ibrobust.study.write_records import cell_columns, cell_folder, write_records


def test_pandas_reads_every_value_back(make_study):
    study = make_study({"objective": ["knn_ib"], "beta": [0.03], "noise": [False]}, {"objective": ["cross_entropy"]})
    knn, entropy = expand(study)
    of_knn = [
        {"decoder": "logistic", "quantity": "test_accuracy", "value": 1 / 3, "num_images": 360},
        {"epoch": 2, "quantity": "entropy", "value": -12.5},
    ]
    of_entropy = [{"decoder": "head", "epsilon": 8 / 255, "attack": "FGSM", "quantity": "accuracy", "value": math.nan}]
    for cell, rows in ((knn, of_knn), (entropy, of_entropy)):
        common = cell_columns(study, cell)
        write_records(cell_folder(study, cell.name) / "records.csv", [{**common, **row} for row in rows])
    path = gather_records(study)

    table = pd.read_csv(path)
    assert tuple(table.columns) == COLUMNS
    assert list(table.cell) == [knn.name, knn.name, entropy.name]
    assert list(table.model) == [knn.model, knn.model, entropy.model]
    assert list(table.value[:2]) == [1 / 3, -12.5]
    assert math.isnan(table.value[2])
    assert table.epsilon[2] == 8 / 255
    assert list(table.beta[:2]) == [0.03, 0.03]
    assert table.beta.isna()[2], "cross-entropy has no beta"
    assert table.noise.isna()[2], "and no noise"
    assert list(table.noise[:2]) == [False, False]
    # The figures read the same rows.
    assert [(record.cell, record.epoch, record.num_images) for record in read_study_records(path)] == [
        (knn.name, None, 360),
        (knn.name, 2, None),
        (entropy.name, None, None),
    ]


def test_records_hold_the_cells_that_are_done_and_no_others(make_study):
    study = make_study({"beta": [0.1, 0.2, 0.3]})
    for cell in (expand(study)[2], expand(study)[0]):
        row = {**cell_columns(study, cell), "quantity": "final_loss", "value": 1.0}
        write_records(cell_folder(study, cell.name) / "records.csv", [row])
    assert list(pd.read_csv(gather_records(study)).beta) == [0.1, 0.3]
