"""Reading of a recorded requirements.txt."""

from lightning_dtool.record.requirements import read_requirements


def test_each_line_comes_with_its_requirement() -> None:
    text = "# made by pip freeze\n\n  torch==2.6  \n-e git+https://git.example.org/net@abc#egg=net\n./wheels/odd.whl\n"
    assert [(line, str(requirement) if requirement else None) for line, requirement in read_requirements(text)] == [
        ("torch==2.6", "torch==2.6"),
        ("-e git+https://git.example.org/net@abc#egg=net", None),
        ("./wheels/odd.whl", None),
    ]


def test_a_version_that_pep_440_does_not_allow_is_a_requirement() -> None:
    ((line, requirement),) = read_requirements("simulator==2024-custom\n")
    assert line == "simulator==2024-custom"
    assert requirement is not None
    assert (requirement.name, str(requirement.specifier)) == ("simulator", "===2024-custom")
