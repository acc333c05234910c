from __future__ import annotations

from urllib.parse import quote
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckvd.errors import ArchiveError
from ckvd.vision.listing import ListedFile, ListingPage, listed_archives, parse_listing

FOLDER = "data/spot/monthly/klines/BTCUSDT/1m/"
NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"

# A page of the publisher's bucket, cut to two entries.
PAGE = """<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>data.binance.vision</Name>\
<Prefix>data/spot/monthly/klines/BTCUSDT/1m/</Prefix><Marker></Marker><NextMarker>{marker}</NextMarker>\
<MaxKeys>2</MaxKeys><Delimiter>/</Delimiter><IsTruncated>true</IsTruncated>\
<Contents><Key>data/spot/monthly/klines/BTCUSDT/1m/BTCUSDT-1m-2017-08.zip</Key>\
<LastModified>2021-04-19T06:19:24.000Z</LastModified><ETag>&quot;0a3b0e9b1d3f5c0c6a0d5c0a3b0e9b1d&quot;</ETag>\
<Size>1027441</Size><StorageClass>STANDARD</StorageClass></Contents>\
<Contents><Key>data/spot/monthly/klines/BTCUSDT/1m/BTCUSDT-1m-2017-08.zip.CHECKSUM</Key>\
<LastModified>2021-04-19T06:19:25.000Z</LastModified><ETag>&quot;f5c0c6a0d5c0a3b0e9b1d0a3b0e9b1d3&quot;</ETag>\
<Size>89</Size><StorageClass>STANDARD</StorageClass></Contents></ListBucketResult>"""

# Characters that XML allows.
keys = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Co", "Cn"]), min_size=1, max_size=30)


def render(
    files: list[ListedFile],
    *,
    prefixes: list[str] | None = None,
    is_truncated: bool = False,
    is_encoded: bool = False,
    namespace: str = NAMESPACE,
) -> bytes:
    def text(key: str) -> str:
        return escape(quote(key) if is_encoded else key)

    contents = "".join(
        f"<Contents><Key>{text(file.key)}</Key><LastModified>{file.last_modified}</LastModified>"
        f"<ETag>{escape(file.etag)}</ETag><Size>{file.nbytes}</Size></Contents>"
        for file in files
    )
    common = "".join(
        f"<CommonPrefixes><Prefix>{text(prefix)}</Prefix></CommonPrefixes>" for prefix in prefixes or []
    )
    encoding = "<EncodingType>url</EncodingType>" if is_encoded else ""
    xmlns = f' xmlns="{namespace}"' if namespace else ""
    truncated = f"<IsTruncated>{str(is_truncated).lower()}</IsTruncated>"
    return f"<ListBucketResult{xmlns}>{encoding}{truncated}{contents}{common}</ListBucketResult>".encode()


def file(key: str, nbytes: int = 1) -> ListedFile:
    return ListedFile(key, nbytes, '"abc"', "2021-04-19T06:19:24.000Z")


# --- Pages -------------------------------------------------------------------------------------------------


def test_a_page_of_the_publisher_is_read_whole() -> None:
    page = parse_listing(PAGE.format(marker="data/next").encode(), "bucket")
    assert page == ListingPage(
        (
            ListedFile(
                FOLDER + "BTCUSDT-1m-2017-08.zip",
                1027441,
                '"0a3b0e9b1d3f5c0c6a0d5c0a3b0e9b1d"',
                "2021-04-19T06:19:24.000Z",
            ),
            ListedFile(
                FOLDER + "BTCUSDT-1m-2017-08.zip.CHECKSUM",
                89,
                '"f5c0c6a0d5c0a3b0e9b1d0a3b0e9b1d3"',
                "2021-04-19T06:19:25.000Z",
            ),
        ),
        "data/next",
    )


@given(st.lists(keys.map(file), max_size=5), st.booleans(), st.sampled_from([NAMESPACE, ""]))
def test_what_was_listed_is_read_back(files: list[ListedFile], is_encoded: bool, namespace: str) -> None:
    page = parse_listing(render(files, is_encoded=is_encoded, namespace=namespace), "bucket")
    assert page == ListingPage(tuple(files), None)


@pytest.mark.parametrize(
    ("names", "prefixes", "marker"),
    [
        (["a", "b"], [], "b"),
        ([], ["a/", "b/"], "b/"),
        (["a", "z"], ["b/"], "z"),
        (["a"], ["b/", "币/"], "币/"),
    ],
)
def test_without_a_next_marker_the_last_key_or_prefix_is_it(
    names: list[str], prefixes: list[str], marker: str
) -> None:
    for is_encoded in (False, True):
        content = render(
            [file(name) for name in names], prefixes=prefixes, is_truncated=True, is_encoded=is_encoded
        )
        assert parse_listing(content, "bucket").next_marker == marker


def test_a_last_page_has_no_next_marker_whatever_else_it_says() -> None:
    content = PAGE.format(marker="data/next").replace("true", "false").encode()
    assert parse_listing(content, "bucket").next_marker is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "listing in XML"),
        (b"not found", "listing in XML"),
        (b"<html><body>hello</body></html>", "found html"),
        (b"<Error><Code>NoSuchBucket</Code></Error>", "found Error NoSuchBucket"),
        (render([file("a")])[:-5], "listing in XML"),
        (render([], is_truncated=True), "does not say where it goes on"),
        (render([file("a")]).replace(b"<Size>1<", b"<Size>-1<"), "size in bytes, found '-1'"),
        (render([file("a")]).replace(b"<Size>1<", b"<Size><"), "size in bytes"),
        (b"<?xml version='1.0' encoding='klingon'?><a/>", "listing in XML"),
        (b"<?xml version='1.0' encoding='shift_jis'?><a/>", "listing in XML"),
        (b"\xff\xfe<", "listing in XML"),
    ],
)
def test_bytes_that_are_no_page_are_refused_with_where_and_why(content: bytes, reason: str) -> None:
    with pytest.raises(ArchiveError, match=reason) as caught:
        parse_listing(content, "http://bucket/?prefix=x")
    assert caught.value.archive == "http://bucket/?prefix=x"


def test_a_document_type_is_refused_before_anything_of_it_expands() -> None:
    levels = "".join(f"<!ENTITY e{n} '{f'&e{n - 1};' * 10}'>" for n in range(1, 12))
    bomb = f"<!DOCTYPE ListBucketResult [<!ENTITY e0 'boom'>{levels}]><ListBucketResult>&e11;</ListBucketResult>"
    outside = "<!DOCTYPE a SYSTEM 'file:///etc/hostname'><a/>"
    for content in (bomb, outside):
        with pytest.raises(ArchiveError, match="declares a document type"):
            parse_listing(content.encode(), "bucket")


@given(st.binary() | st.text().map(lambda text: f"<ListBucketResult>{text}</ListBucketResult>".encode()))
def test_any_bytes_are_a_page_or_refused(content: bytes) -> None:
    try:
        page = parse_listing(content, "bucket")
    except ArchiveError:
        return
    assert page.files == ()


# --- Archives ----------------------------------------------------------------------------------------------


def archive(label: str) -> str:
    return f"{FOLDER}BTCUSDT-1m-{label}.zip"


def test_archives_come_by_period_with_their_checksum_noted_and_nothing_else() -> None:
    files = [
        file(archive("2020-10"), 3),
        file(archive("2020-10") + ".CHECKSUM"),
        file(archive("2020-9"), 2),
        file(FOLDER + "readme.txt"),
        file("data/spot/monthly/trades/BTCUSDT/BTCUSDT-trades-2020-10.zip"),
        file(archive("2020-13")),
        file(archive("2019-12"), 1),
    ]
    listed = listed_archives(files)
    assert [(one.name.period.label, one.nbytes) for one in listed] == [
        ("2019-12", 1),
        ("2020-09", 2),
        ("2020-10", 3),
    ]
    assert listed[1].name.path == archive("2020-9")
    assert (listed[0].etag, listed[0].last_modified) == ('"abc"', "2021-04-19T06:19:24.000Z")


def test_two_spellings_of_a_period_are_both_kept_the_usual_one_first() -> None:
    listed = listed_archives([file(archive("2020-8")), file(archive("2020-08"))])
    assert [one.name.path for one in listed] == [archive("2020-08"), archive("2020-8")]


@given(st.permutations(["2019-12", "2020-01", "2020-2", "2020-02", "2020-11"]))
def test_the_order_of_a_listing_makes_no_difference(labels: list[str]) -> None:
    expected = ["2019-12", "2020-01", "2020-02", "2020-2", "2020-11"]
    assert [one.name.path for one in listed_archives(map(file, map(archive, labels)))] == list(
        map(archive, expected)
    )


def test_keys_may_be_percent_encoded_or_not() -> None:
    plain = "data/spot/daily/klines/币安人生USDT/1h/币安人生USDT-1h-2025-10-09.zip"
    for key in (plain, quote(plain)):
        (listed,) = listed_archives([file(key), file(key + ".CHECKSUM")])
        assert (listed.name.path, listed.name.series.symbol) == (plain, "币安人生USDT")


# --- Bounds ------------------------------------------------------------------------------------------------


def test_a_page_with_all_that_a_bucket_tells_of_a_thousand_keys_is_read() -> None:
    facts = "".join(
        f"<{tag}>x</{tag}>" for tag in ("StorageClass", "ChecksumAlgorithm", "ChecksumType", "VersionId")
    )
    entry = (
        f"<Key>k</Key><Size>1</Size><ETag>e</ETag><LastModified>l</LastModified><Owner><ID>1</ID></Owner>{facts}"
    )
    page = f"<ListBucketResult>{f'<Contents>{entry}</Contents>' * 1000}</ListBucketResult>"
    assert len(parse_listing(page.encode(), "bucket").files) == 1000


@pytest.mark.parametrize("element", ["<a/>", "<Contents><Key>k</Key></Contents>", "<a>"])
def test_a_page_with_more_elements_than_any_is_refused(element: str) -> None:
    page = "<ListBucketResult>" + element * 20_001
    with pytest.raises(ArchiveError, match="more than 20000 elements, expected 1,000 keys"):
        parse_listing(page.encode(), "bucket")


def test_no_control_character_of_a_listing_reaches_an_error_or_is_kept() -> None:
    evil = "\x9b31m\u202e"
    for page in (
        f"<Error><Code>{evil}</Code></Error>",
        f"<{evil}/>",
        f"<ListBucketResult><Contents><Key>k</Key><Size>{evil}</Size></Contents></ListBucketResult>",
        f"<ListBucketResult><Contents><Key>{evil}</Key><Size>1</Size></Contents></ListBucketResult>",
        f'<?xml version="1.0" encoding="{evil}"?><a/>',
    ):
        with pytest.raises(ArchiveError) as caught:
            parse_listing(page.encode(), "bucket", "data/")
        assert str(caught.value).isprintable()
    entry = f"<Contents><Key>k</Key><Size>1</Size><ETag>{evil}</ETag></Contents>"
    (listed,) = parse_listing(f"<ListBucketResult>{entry}</ListBucketResult>".encode(), "bucket").files
    assert listed.etag == r"\x9b31m\u202e"
