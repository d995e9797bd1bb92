from castssl.testing import Check, Subject, parametrize, superpixels


@parametrize(superpixels.checks, ["template"], expected_failures={})
def test_contract(check: Check, subject: Subject) -> None:
    check(subject)
