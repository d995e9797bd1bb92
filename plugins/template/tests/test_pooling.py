from castssl.testing import Check, Subject, parametrize, pooling


@parametrize(pooling.checks, ["template"], expected_failures={})
def test_contract(check: Check, subject: Subject) -> None:
    check(subject)
