"""Endpoints as people write them."""

import pytest

from clients import endpoints


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("127.0.0.1:50051", ("127.0.0.1:50051",)),
        ("shop", ("shop:50051",)),
        (" a:1 , b:2,a:1,", ("a:1", "b:2")),
        ("[::1]:7", ("[::1]:7",)),
        ("::1", ("[::1]:50051",)),
        ("[::1]", ("[::1]:50051",)),
        (["a:1", "b"], ("a:1", "b:50051")),
    ],
)
def test_endpoints_are_read(text: str | list[str], parsed: tuple[str, ...]) -> None:
    """A list, a text with commas, names, both families and a missing port are understood."""
    assert endpoints.parse(text) == parsed


@pytest.mark.parametrize("text", ["", " , ", "a:b", "a:0", "a:65536", ":1", "a:-1", "a:\u0661"])
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    """A text that names no endpoint is a ValueError that shows how to write one."""
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:50051"):
        endpoints.parse(text)


async def test_all_addresses_are_in_the_target() -> None:
    """Every endpoint is resolved into the one target that gRPC balances over."""
    assert await endpoints.resolve(["127.0.0.25:1", "127.0.0.26:2"]) == "ipv4:127.0.0.25:1,127.0.0.26:2"
    assert await endpoints.resolve(["[::1]:3"]) == "ipv6:[::1]:3"


async def test_a_name_without_address_is_an_os_error() -> None:
    """Names that cannot be resolved are passed over as long as one endpoint can."""
    assert await endpoints.resolve(["no-such-host.invalid:1", "127.0.0.25:1"]) == "ipv4:127.0.0.25:1"
    with pytest.raises(OSError, match="no-such-host"):
        await endpoints.resolve(["no-such-host.invalid:1"])
