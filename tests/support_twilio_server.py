"""A Twilio of memory for the loopback server: messages, calls, numbers, verifications and lookups, answered as its OpenAPI says.

Its lists are the truth that ledgers are compared with. All products on one host, told apart by their paths.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support_json_server import Answer

if TYPE_CHECKING:
    from tests.support_json_server import Arrived

ACCOUNT, SUBACCOUNT, SERVICE = f"AC{'0' * 31}1", f"AC{'0' * 31}2", f"VA{'0' * 32}"
TOKEN = "0123456789abcdef0123456789abcdef"
# Twilio's own magic number of its test credentials, and one of ours for a limit that it does not simulate.
INVALID, TOO_MANY = "+15005550001", "+15005550429"
# An unsigned JWT of nothing.
_BEARER = "eyJhbGciOiJub25lIn0.e30."
_RFC_2822, _ISO = "Wed, 25 Nov 2026 00:00:00 +0000", "2026-11-25T00:00:00Z"
_NO_CALL = ("parent_call_sid", "phone_number_sid", "start_time", "end_time", "duration", "answered_by", "forwarded_from", "group_sid",
            "caller_name", "trunk_sid")  # fmt: skip


@dataclass
class Twilio:
    """
    What an account at Twilio has bought.

    Attributes:
        messages, calls, numbers, verifications: By sid, as they are answered.
        lookups: Each lookup that was paid for, by its fields.
        lost: Hang up on the next POST, after it was executed.
        unstable: Answer 500 to so many POSTs of a message, each executed.
    """

    messages: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: dict[str, dict[str, Any]] = field(default_factory=dict)
    numbers: dict[str, dict[str, Any]] = field(default_factory=dict)
    verifications: dict[str, dict[str, Any]] = field(default_factory=dict)
    lookups: list[str] = field(default_factory=list)
    lost: bool = False
    unstable: int = 0
    _fetched: dict[str, int] = field(default_factory=dict)

    @property
    def segments(self) -> int:
        """Segments of all messages that were not cancelled."""
        return sum(int(message["num_segments"]) for message in self.messages.values() if message["status"] != "canceled")

    def answer(self, arrived: Arrived) -> Answer:
        """Answer one request."""
        url = urlsplit(arrived.path)
        if not _is_allowed(arrived, url.path):
            return _refused(401, 20003, "Authenticate")
        answer = self._answered(arrived, url.path.removesuffix(".json").split("/")[1:], parse_qs(url.query))
        if arrived.method == "POST" and self.lost:
            self.lost = False
            return Answer(0)
        return answer

    def _answered(self, arrived: Arrived, parts: list[str], query: dict[str, list[str]]) -> Answer:
        form, is_post = arrived.form, arrived.method == "POST"
        match parts:
            case ["2010-04-01", "Accounts", account, kind] if is_post and kind in _MADE:
                return _MADE[kind](self, account, form)
            case ["2010-04-01", "Accounts", _, kind, sid] if kind in _SEEN:
                return _SEEN[kind](self, sid, form)
            case ["v2", "Services", service, kind] if is_post and kind in _VERIFY:
                return _VERIFY[kind](self, service, form)
            case ["v2", "PhoneNumbers", number]:
                return self._looked_up(unquote(number), query)
            case ["v2", "token"]:
                return Answer(201, {"access_token": _BEARER, "token_type": "Bearer", "expires_in": 3600})
        return _refused(404, 20404, "The requested resource was not found")

    def _message(self, account: str, form: dict[str, str]) -> Answer:
        if form.get("To") == INVALID:
            return _refused(400, 21211, f"The 'To' number {INVALID} is not a valid phone number.")
        if form.get("To") == TOO_MANY:
            return _refused(429, 20429, "Too Many Requests")
        sid = f"SM{len(self.messages):032x}"
        is_pooled = "MessagingServiceSid" in form
        self.messages[sid] = {
            "sid": sid, "account_sid": account, "to": form.get("To"), "from": form.get("From"), "body": form.get("Body", ""),
            "messaging_service_sid": form.get("MessagingServiceSid"), "status": "scheduled" if "SendAt" in form else "queued",
            "num_segments": str(_segments(form.get("Body", ""))), "num_media": "0", "price": None, "price_unit": "USD",
            "direction": "outbound-api", "error_code": None, "error_message": None, "api_version": "2010-04-01",
            "date_created": _RFC_2822, "date_updated": _RFC_2822, "date_sent": None,
            "uri": f"/2010-04-01/Accounts/{account}/Messages/{sid}.json",
            "subresource_uris": {"media": f"/2010-04-01/Accounts/{account}/Messages/{sid}/Media.json"},
        }  # fmt: skip
        if self.unstable:
            self.unstable -= 1
            return _refused(500, 20500, "Internal Server Error")
        # Through a Messaging Service the number of segments is not known yet.
        return Answer(201, self.messages[sid] | ({"num_segments": "0"} if is_pooled else {}))

    def _seen(self, sid: str, form: dict[str, str]) -> Answer:
        """Answer a fetch or an update of a message; its price is there from the second fetch on."""
        message, times = self.messages[sid], self._fetched.get(sid, 0) + 1
        self._fetched[sid] = times
        if form.get("Status") == "canceled":
            message["status"] = "canceled"
        elif message["status"] == "queued":
            message["status"] = "sent"
        if times >= 2 and message["status"] == "sent":
            message["price"] = f"-{0.0083 * int(message['num_segments']):.5f}"
        return Answer(200, message)

    def _call(self, account: str, form: dict[str, str]) -> Answer:
        sid = f"CA{len(self.calls):032x}"
        self.calls[sid] = {
            "sid": sid, "account_sid": account, "to": form["To"], "to_formatted": form["To"], "from": form["From"], "price": None,
            "from_formatted": form["From"], "status": "queued", "price_unit": "USD", "direction": "outbound-api", "queue_time": "0",
            "api_version": "2010-04-01", "date_created": _RFC_2822, "date_updated": _RFC_2822,
            "uri": f"/2010-04-01/Accounts/{account}/Calls/{sid}.json", "subresource_uris": {}, **dict.fromkeys(_NO_CALL),
        }  # fmt: skip
        return Answer(201, self.calls[sid])

    def _called(self, sid: str, form: dict[str, str]) -> Answer:
        self.calls[sid] |= {"status": form.get("Status", self.calls[sid]["status"])}
        return Answer(200, self.calls[sid])

    def _number(self, account: str, form: dict[str, str]) -> Answer:
        sid = f"PN{len(self.numbers):032x}"
        self.numbers[sid] = {
            "sid": sid, "account_sid": account, "phone_number": form.get("PhoneNumber", "+15005550006"), "friendly_name": "n",
            "capabilities": {"voice": True, "sms": True, "mms": True, "fax": False}, "beta": False, "api_version": "2010-04-01",
            "date_created": _RFC_2822, "date_updated": _RFC_2822, "status": "in-use",
        }  # fmt: skip
        return Answer(201, self.numbers[sid])

    def _verification(self, service: str, form: dict[str, str]) -> Answer:
        if form["To"] == TOO_MANY:
            return _refused(429, 20429, "Too Many Requests")
        sid = f"VE{len(self.verifications):032x}"
        self.verifications[sid] = {
            "sid": sid, "service_sid": service, "account_sid": ACCOUNT, "to": form["To"], "channel": form["Channel"], "status": "pending",
            "valid": False, "lookup": {}, "amount": None, "payee": None, "send_code_attempts": [], "date_created": _ISO,
            "date_updated": _ISO, "sna": None, "url": f"https://verify.twilio.com/v2/Services/{service}/Verifications/{sid}",
        }  # fmt: skip
        return Answer(201, self.verifications[sid])

    def _checked(self, _service: str, form: dict[str, str]) -> Answer:
        found = next(one for one in self.verifications.values() if one["to"] == form["To"])
        if form["Code"] == "123456":
            found |= {"status": "approved", "valid": True}
        shown = ("sid", "service_sid", "account_sid", "to", "channel", "status", "valid", "amount", "payee", "date_created", "date_updated")
        return Answer(200, {name: found[name] for name in shown})

    def _looked_up(self, number: str, query: dict[str, list[str]]) -> Answer:
        self.lookups += query.get("Fields", [])
        return Answer(200, {
            "phone_number": number, "calling_country_code": "1", "country_code": "US", "national_format": "(212) 555-0123",
            "valid": True, "validation_errors": [], "url": f"https://lookups.twilio.com/v2/PhoneNumbers/{number}",
        })  # fmt: skip


_MADE = {"Messages": Twilio._message, "Calls": Twilio._call, "IncomingPhoneNumbers": Twilio._number}
_SEEN = {"Messages": Twilio._seen, "Calls": Twilio._called}
_VERIFY = {"Verifications": Twilio._verification, "VerificationCheck": Twilio._checked}


def _segments(text: str) -> int:
    """Count the segments of plain ASCII, which is all that the tests send here."""
    return 1 if len(text) <= 160 else -(-len(text) // 153)


def _is_allowed(arrived: Arrived, path: str) -> bool:
    scheme, _, value = arrived.headers.get("authorization", "").partition(" ")
    if scheme == "Basic":
        user, _, password = base64.b64decode(value).decode().partition(":")
        return user.startswith(("AC", "SK")) and password == TOKEN
    return value == _BEARER or path == "/v2/token"


def _refused(status: int, code: int, message: str) -> Answer:
    body = {"code": code, "message": message, "more_info": f"https://www.twilio.com/docs/errors/{code}", "status": status}
    return Answer(status, json.dumps(body).encode())
