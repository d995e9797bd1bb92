from castssl.testing import Check, Subject, datasets, parametrize


@parametrize(datasets.checks, ["template"], expected_failures={})
def test_contract(check: Check, subject: Subject) -> None:
    check(subject)
