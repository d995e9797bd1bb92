from castssl.testing import Check, Subject, parametrize, segmenters


@parametrize(segmenters.checks, ["template", "template:levels=5"], expected_failures={})
def test_contract(check: Check, subject: Subject) -> None:
    check(subject)
