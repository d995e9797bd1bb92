from castssl.testing import Check, Subject, encoders, parametrize


@parametrize(encoders.checks, ["template", "template:large"], expected_failures={})
def test_contract(check: Check, subject: Subject) -> None:
    check(subject)
