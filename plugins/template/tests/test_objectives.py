from castssl.testing import Check, Subject, objectives, parametrize


@parametrize(objectives.checks, ["template"], expected_failures={})
def test_contract(check: Check, subject: Subject) -> None:
    check(subject)
