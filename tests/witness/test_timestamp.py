"""Time-stamps of heads by a real authority: openssl's, with its own CA, over HTTP and through a folder."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from witness.authority import Authority, openssl
from witness.logs import grow, head_of
from witness.test_directory import statement

from grpo_audit.errors import ConfigError
from grpo_audit.ledger.notes import Checkpoint
from grpo_audit.ledger.project import Project
from grpo_audit.witness import timestamp
from grpo_audit.witness.ask import ask
from grpo_audit.witness.authority import Authority as Anchor
from grpo_audit.witness.der import sorted_certificates
from grpo_audit.witness.protocol import Judgement, WitnessUnavailable
from grpo_audit.witness.timestamp import TimeStampKind

KIND = TimeStampKind()
HEAD = Checkpoint("grpo-audit/" + "0" * 32, 7, bytes(range(32)))


pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")  # of a certificate that a test spoilt


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """One authority for all tests."""
    return Authority(tmp_path_factory.mktemp("tsa") / "authority")


def judged(response: bytes, ca: Path, head: Checkpoint = HEAD):
    """What the CA's anchor says of a response."""
    return KIND.trusted(str(ca)).judge("tsa/test", response, head)


def test_a_head_is_stamped_over_http_and_holds(record: Path, authority: Authority) -> None:
    """The authority is asked over HTTP; its token holds for this head under its CA, at a time around now."""
    with authority.served() as url, Project.open(record, mode="write") as project:
        assert ask(project, KIND.witness(f"{url}#{authority.ca}")) == 8
    name, response = statement(record, 8)
    result = judged(response, authority.ca, head_of(record))
    assert (name, result.judgement) == ("tsa/127.0.0.1", Judgement.HOLDS)
    age = datetime.now(UTC) - datetime.fromisoformat(result.at)
    assert timedelta(seconds=-5) < age < timedelta(minutes=5)
    assert KIND.contradiction(response, head_of(record)) is None


def test_a_token_is_what_openssl_verifies(record: Path, authority: Authority, tmp_path: Path) -> None:
    """openssl ts -verify accepts the kept statement over the text of the checkpoint, and nothing else is needed."""
    with authority.served() as url, Project.open(record, mode="write") as project:
        ask(project, KIND.witness(f"{url}#{authority.ca}"))
    (tmp_path / "text").write_text(head_of(record).text())
    (tmp_path / "reply.tsr").write_bytes(statement(record, 8)[1])
    said = openssl("ts", "-verify", "-data", "text", "-in", "reply.tsr", "-CAfile", str(authority.ca), folder=tmp_path)
    assert b"OK" in said


def test_a_time_stamp_of_another_note_is_refused(authority: Authority) -> None:
    """A true token over another head contradicts itself, with or without an anchor."""
    other = Checkpoint(HEAD.origin, 8, HEAD.root)
    response = authority.stamp(other.text().encode())
    assert "another text" in (KIND.contradiction(response, HEAD) or "")
    result = judged(response, authority.ca)
    assert result.judgement is Judgement.BROKEN and "another text" in result.detail
    assert judged(response, authority.ca, other).judgement is Judgement.HOLDS


def test_a_token_over_another_digest_algorithm_is_refused(authority: Authority) -> None:
    """Only SHA-256 is asked for, so only SHA-256 is believed."""
    result = judged(authority.stamp(HEAD.text().encode(), digest="-sha512"), authority.ca)
    assert result.judgement is Judgement.BROKEN and "SHA-256" in result.detail


def test_a_token_of_another_authority_is_not_believed(authority: Authority, tmp_path: Path) -> None:
    """A token that chains to another CA is of another authority, also when that CA has the same name."""
    for name in ("Other CA", "Test CA"):
        other = Authority(tmp_path / name.replace(" ", ""), name=name)
        result = judged(other.stamp(HEAD.text().encode()), authority.ca)
        assert result.judgement is Judgement.OTHER and "another authority" in result.detail


def test_a_changed_token_does_not_hold_or_says_the_same(authority: Authority) -> None:
    """Every byte of a true response, changed in two ways: it is refused, or the change is in one of the few bytes that
    a CMS signature does not cover (version numbers, the hint which algorithm was used) and it states the same.
    """
    response = authority.stamp(HEAD.text().encode())
    true = judged(response, authority.ca)
    assert true.judgement is Judgement.HOLDS
    held = []
    for position in range(len(response)):
        for change in (0x01, 0x80):
            changed = bytearray(response)
            changed[position] ^= change
            result = judged(bytes(changed), authority.ca)
            if result.judgement is Judgement.HOLDS:
                assert result == true
                held.append(position)
    assert len(set(held)) <= 12


def test_a_cut_or_continued_token_is_refused(authority: Authority) -> None:
    """Nothing, a part, something behind it, and a bare refusal of the authority are no time-stamp."""
    response = authority.stamp(HEAD.text().encode())
    for spoilt in (b"", response[:-1], response + b"\0", b"\x30\x05\x30\x03\x02\x01\x02"):
        assert judged(spoilt, authority.ca).judgement is Judgement.BROKEN
        assert KIND.contradiction(spoilt, HEAD) is not None


def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    """A token made after the time-stamp certificate ran out does not hold."""
    expired = Authority(tmp_path / "expired", days=-1)
    result = judged(expired.stamp(HEAD.text().encode()), expired.ca)
    assert result.judgement is Judgement.BROKEN and "expired" in result.detail


def test_a_certificate_for_another_purpose_is_refused(authority: Authority) -> None:
    """A server certificate under the very CA is no time-stamp authority; the same forgery with the right purpose is."""
    text = HEAD.text().encode()
    result = judged(authority.impostor(text, "serverAuth"), authority.ca)
    assert result.judgement is Judgement.BROKEN and "purpose" in result.detail
    assert judged(authority.impostor(text, "timeStamping"), authority.ca).judgement is Judgement.HOLDS


def test_an_answer_to_another_question_is_refused(record: Path, authority: Authority) -> None:
    """A replayed answer, with another nonce, is not kept."""
    replayed = authority.stamp(head_of(record).text().encode())
    with (
        authority.served(change=lambda _: replayed) as url,
        Project.open(record, mode="write") as project,
        pytest.raises(WitnessUnavailable, match="nonce"),
    ):
        ask(project, KIND.witness(f"{url}#{authority.ca}"))


def test_a_policy_that_was_asked_for_must_be_the_one(authority: Authority) -> None:
    """With a pinned policy, a token under another one does not hold; the anchor's text carries the policy."""
    response = authority.stamp(HEAD.text().encode(), "-tspolicy", "1.2.3.4.5")
    for policy, judgement in (("1.2.3.4.5", Judgement.HOLDS), ("1.2.3.4.1", Judgement.BROKEN)):
        anchor = KIND.trusted(f"{authority.ca},policy={policy}")
        assert anchor.judge("tsa/test", response, HEAD).judgement is judgement
        assert Anchor.read(anchor.text) == anchor


def test_an_authority_that_cannot_be_reached_is_a_warning_not_a_refusal(record: Path, authority: Authority) -> None:
    """Nobody listening, an error page and an altered answer are WitnessUnavailable: training may go on."""
    with (
        authority.served(kind="text/html") as url,
        Project.open(record, mode="write") as project,
        pytest.raises(WitnessUnavailable, match="text/html"),
    ):
        ask(project, KIND.witness(f"{url}#{authority.ca}"))
    with Project.open(record, mode="write") as project, pytest.raises(WitnessUnavailable, match="cannot be reached"):
        ask(project, KIND.witness(f"{url}#{authority.ca}"))
    with (
        authority.served(change=lambda reply: reply[:-1] + bytes([reply[-1] ^ 1])) as url,
        Project.open(record, mode="write") as project,
        pytest.raises(WitnessUnavailable, match="cannot be used"),
    ):
        ask(project, KIND.witness(f"{url}#{authority.ca}"))


def test_a_token_with_its_whole_chain_is_read(record: Path, tmp_path: Path) -> None:
    """Authorities that add their CA, in an order that is not DER, are read; what is kept is what openssl verifies."""
    for number in range(4):  # the order of two certificates depends on their bytes
        authority = Authority(tmp_path / str(number), name=f"CA {number}", chain="ca.pem")
        with authority.served() as url, Project.open(record, mode="write") as project:
            ask(project, KIND.witness(f"{url}#{authority.ca}"))
        said = statement(record, 8)[1]
        assert judged(said, authority.ca, head_of(record)).judgement is Judgement.HOLDS
        assert sorted_certificates(said) == said
        (tmp_path / "text").write_text(head_of(record).text())
        (tmp_path / "reply.tsr").write_bytes(said)
        command = ("ts", "-verify", "-data", "text", "-in", "reply.tsr", "-CAfile", str(authority.ca))
        assert b"OK" in openssl(*command, folder=tmp_path)


@given(st.binary(max_size=200), st.integers(0, 60))
def test_sorting_certificates_fails_in_one_way(data: bytes, cut: int) -> None:
    """Whatever the bytes, they come back or a ValueError is raised."""
    for hostile in (data, b"\x30\x80" + data, bytes([0x30, len(data) & 0x7F]) + data[: len(data) - cut]):
        try:
            sorted_certificates(hostile)
        except ValueError:
            continue


def test_a_folder_carries_question_and_answer(record: Path, authority: Authority, tmp_path: Path) -> None:
    """Without a network the question waits in a folder; with the answer beside it the statement is kept."""
    folder = tmp_path / "queue"
    folder.mkdir()
    witness = KIND.witness(f"file://{folder}#{authority.ca}")
    with Project.open(record, mode="write") as project:
        with pytest.raises(WitnessUnavailable, match="question waits"):
            ask(project, witness)
        (question,) = folder.glob("*.tsq")
        replayed = authority.stamp(head_of(record).text().encode())
        question.with_suffix(".tsr").write_bytes(replayed)
        with pytest.raises(WitnessUnavailable, match="nonce"):
            ask(project, witness, size=8)
        question.with_suffix(".tsr").write_bytes(authority.answer(question.read_bytes()))
    grow(record, 2)
    with Project.open(record, mode="write") as project:
        assert ask(project, witness, size=8) == 8
    assert judged(statement(record, 8)[1], authority.ca, head_of(record, 8)).judgement is Judgement.HOLDS


def test_the_nonce_of_a_question_is_read_back(authority: Authority) -> None:
    """The nonce in a question of ours, whatever its length in bytes, is the one the library made."""
    for _ in range(50):
        query, nonce = timestamp._query(HEAD)
        path = authority.folder / "one.tsq"
        path.write_bytes(query)
        assert timestamp._nonce_of(path) == nonce


@pytest.mark.parametrize("rest", ["", "no-file.pem", "ftp://x#ca.pem", "https://host/path", "https://host/path#no.pem"])
def test_what_is_no_authority_is_refused(rest: str) -> None:
    """No URL, another scheme, no CA and a CA that is no certificate are ConfigErrors that say what is expected."""
    with pytest.raises(ConfigError):
        KIND.witness(rest)
    with pytest.raises(ConfigError):
        KIND.trusted(rest)
