import torch

from matmill.predict.chemistry import FAMILIES, families


def test_compounds_fall_into_their_family():
    compounds = {
        "oxide": [22, 8],  # TiO2
        "halide": [11, 17],
        "chalcogenide": [42, 16],
        "pnictide": [31, 7],
        "hydride, boride, carbide": [12, 5],
        "intermetallic": [28, 13],
    }
    elements = torch.zeros(len(compounds) + 1, 119)
    for row, numbers in enumerate(compounds.values()):
        elements[row, numbers] = 1.0
    elements[-1, [57, 8, 17]] = 1.0  # LaOCl counts as an oxide
    found = [list(FAMILIES)[place] for place in families(elements).tolist()]
    assert found == [*compounds, "oxide"]
