"""What a site's robots.txt allows, by RFC 9309. It is requested once per origin and hour."""

from __future__ import annotations

import importlib
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Any, NamedTuple

import trio

from nursery_patterns import run_in_thread
from trio_tools.http.wire.client import Share, unshared
from trio_tools.http.wire.errors import Code, FetchRefused
from trio_tools.http.wire.urls import Origin, Target, parse_url

MAX_ROBOTS_BYTES = 500_000
"""RFC 9309, 2.5: at least 500 KiB are read; the rest is ignored."""

_KEPT_SECONDS = 3600.0
_RETRIED_SECONDS = 60.0  # after a failure of the server
_KEPT_ORIGINS = 1000
_MAX_RULES_TRIED = 1000
_MAX_SITEMAPS = 20
_SITEMAP = re.compile(
    r"^[ \t]{0,20}sitemap[ \t]{0,20}:[ \t]{0,20}(\S{1,2000})", re.IGNORECASE | re.MULTILINE
)
_SERVER_ERROR = 500


class RobotsReply(NamedTuple):
    """The reply to a request for a robots.txt.

    Attributes:
        status: Status code; None if there was no reply at all.
        text: Its body.
    """

    status: int | None
    text: str = ""


class _Site(NamedTuple):
    """The rules of one origin.

    Attributes:
        until: When they expire.
        rules: The rules that protego parsed from `text`; None without rules.
        text: The robots.txt.
        why_none: Why no request is allowed; empty if `rules` decide.
    """

    until: float
    rules: Any = None
    text: str = ""
    why_none: str = ""


class Robots:
    """The rules of the requested sites.

    Args:
        ask: Requests the URL of a robots.txt and returns the reply.
        user_agent: The user agent whose rules apply.
        share: Makes concurrent requests for the same robots.txt share one.
    """

    def __init__(
        self,
        ask: Callable[[Target], Awaitable[RobotsReply]],
        user_agent: str,
        *,
        share: Share = unshared,
    ) -> None:
        self._ask = ask
        self._user_agent = user_agent
        self._sites: OrderedDict[Origin, _Site] = OrderedDict()
        self._learn = share(self._learn_now, key=lambda target: target.origin)

    async def check(self, target: Target) -> None:
        """Refuse a URL that the robots.txt of its origin does not allow.

        Tasks that need the same robots.txt at the same time share one request for it, which is
        cancelled when the last of these tasks is.

        Raises:
            FetchRefused: `BLOCKED_BY_ROBOTS`, with the rule.
        """
        site = await self._site_of(target)
        if site.why_none:
            raise _blocked(target, site.why_none)
        if site.rules is not None and not site.rules.can_fetch(target.url, self._user_agent):
            rule = await run_in_thread(_rule_against, site.text, target.url, self._user_agent)
            raise _blocked(target, f"it says {rule!r}")

    async def sitemaps(self, target: Target) -> tuple[str, ...]:
        """Return the URLs of sitemaps in the robots.txt of an origin, in its order."""
        site = await self._site_of(target)
        found = _SITEMAP.finditer(site.text)
        return tuple(dict.fromkeys(match[1] for match in islice(found, _MAX_SITEMAPS)))

    async def _site_of(self, target: Target) -> _Site:
        site = self._sites.get(target.origin)
        if site is None or site.until <= trio.current_time():
            site = await self._learn(target)
        return site

    async def _learn_now(self, target: Target) -> _Site:
        url = f"{target.origin.scheme}://{target.host_header.decode('ascii')}/robots.txt"
        reply = await self._ask(parse_url(url))
        site = _Site(trio.current_time() + _KEPT_SECONDS)
        if reply.status is not None and reply.status >= _SERVER_ERROR:
            why = f"the server answered {reply.status} to it (RFC 9309, 2.3.1.4)"
            site = _Site(trio.current_time() + _RETRIED_SECONDS, why_none=why)
        elif reply.status is not None and 200 <= reply.status < 300:  # noqa: PLR2004 - success
            # Half a megabyte of rules takes some hundred milliseconds.
            rules = await run_in_thread(_parsed, reply.text)
            site = site._replace(rules=rules, text=reply.text)
        # Any other status means that there are no rules. Without a reply there are none either,
        # and the request for the page reports the error.
        self._sites[target.origin] = site
        self._sites.move_to_end(target.origin)
        if len(self._sites) > _KEPT_ORIGINS:
            self._sites.popitem(last=False)
        return site


def _parsed(text: str) -> Any:
    protego: Any = importlib.import_module("protego")
    return protego.Protego.parse(text)


def _rule_against(text: str, url: str, user_agent: str) -> str:
    """Return the line of a robots.txt that forbids a URL: the longest matching one."""
    found = ""
    for rule in _rules_of(text, user_agent)[:_MAX_RULES_TRIED]:
        alone = _parsed(f"User-agent: *\nDisallow: {rule}")
        if len(rule) > len(found) and not alone.can_fetch(url, "x"):
            found = rule
    return f"Disallow: {found}" if found else "Disallow"


def _rules_of(text: str, user_agent: str) -> list[str]:
    """Return the patterns that are disallowed for `user_agent`, by name or for all."""
    named: list[str] = []
    to_all: list[str] = []
    agents: list[str] = []
    in_rules = False
    for line in text.splitlines():
        field, colon, value = line.partition("#")[0].partition(":")
        field, value = field.strip().lower(), value.strip()
        if not colon:
            continue
        if field == "user-agent":
            agents = [*([] if in_rules else agents), value.lower()]
            in_rules = False
            continue
        in_rules = True
        if field == "disallow" and value:
            if any(agent != "*" and agent in user_agent.lower() for agent in agents):
                named.append(value)
            elif "*" in agents:
                to_all.append(value)
    return named or to_all


def _blocked(target: Target, reason: str) -> FetchRefused:
    return FetchRefused(
        f"The robots.txt of {target.origin.host} does not allow {target.url}: {reason}.",
        code=Code.BLOCKED_BY_ROBOTS,
        remediation="Leave this URL out, ask the site for another way such as an API, or let the "
        'operator set `fetch.robots`, or `fetch.crawl_robots` for crawls, to "ignore".',
    )
