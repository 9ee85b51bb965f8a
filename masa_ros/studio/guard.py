# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Who may talk to the page: on this machine everybody here, from elsewhere who has the token."""

from __future__ import annotations

import http.cookies
import ipaddress
import secrets
import urllib.parse
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_COOKIE = 'masa_ros_token'
_LOCAL = 'localhost'


def is_loopback(host: str) -> bool:
    """Tell whether a host, by name or number, is this machine and nothing else."""
    if host == _LOCAL:
        return True
    try:
        return ipaddress.ip_address(host.strip('[]')).is_loopback
    except ValueError:
        return False


class Guard:
    """An ASGI application in front of another one; requests and web sockets go through it.

    Without a token only requests to a name of this machine are let through: a foreign page whose
    name is made to lead here is not. Web sockets of foreign pages never are. With a token it has
    to come once as ``?token=``; then it is a cookie of the browser.

    Parameters
    ----------
    app: what is guarded.
    token: what a browser has to know; '' where only this machine can connect.
    largest: bytes that a request may bring.

    """

    def __init__(self, app: App, token: str, largest: int) -> None:
        self._app, self._token, self._largest = app, token, largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, or refuse it."""
        if scope['type'] not in ('http', 'websocket'):
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value.decode('latin-1') for name, value in scope['headers']}
        refused = self._refused(scope, headers)
        if refused:
            await _refuse(scope, send, 403, refused)
            return
        too_large = self._too_large(scope, headers)
        if too_large:
            await _refuse(scope, send, 413, too_large)
            return
        given = _asked(scope).get('token', '')
        if scope['type'] == 'http' and self._token and given:
            await _remember(send, given)
            return
        await self._app(scope, receive, send)

    def _refused(self, scope: Scope, headers: dict[bytes, str]) -> str:
        """Return why a request is refused, '' for one that is not."""
        host = headers.get(b'host', '')
        origin = headers.get(b'origin', '')
        if origin and urllib.parse.urlsplit(origin).netloc != host:
            return f'this page does not serve {origin}'
        if not self._token:
            name = urllib.parse.urlsplit(f'//{host}').hostname or ''
            return '' if is_loopback(name) else f'{host} is no name of this machine'
        cookies = http.cookies.SimpleCookie()
        try:
            cookies.load(headers.get(b'cookie', ''))
        except http.cookies.CookieError:
            cookies.clear()
        known = cookies[_COOKIE].value if _COOKIE in cookies else ''
        given = _asked(scope).get('token', known)
        if secrets.compare_digest(given.encode(), self._token.encode()):
            return ''
        return 'the token is missing or wrong: open the address that masa_ros studio printed'

    def _too_large(self, scope: Scope, headers: dict[bytes, str]) -> str:
        """Return why what a request brings is refused, '' where it is not."""
        if scope.get('method') not in ('POST', 'PUT', 'PATCH'):
            return ''
        told = headers.get(b'content-length', '')
        if not told.isdecimal():
            return 'a request has to tell its length'
        if int(told) > self._largest:
            return f'{int(told) >> 20} MiB; at most {self._largest >> 20} MiB are taken'
        return ''


def _asked(scope: Scope) -> dict[str, str]:
    return dict(urllib.parse.parse_qsl(scope.get('query_string', b'').decode('latin-1')))


async def _refuse(scope: Scope, send: Send, status: int, reason: str) -> None:
    if scope['type'] == 'websocket':
        await send({'type': 'websocket.close', 'code': 1008, 'reason': reason[:120]})
        return
    await _answer(send, status, [(b'content-type', b'text/plain; charset=utf-8')], reason.encode())


async def _remember(send: Send, token: str) -> None:
    """Make the token a cookie, and take it out of the address."""
    cookie = f'{_COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict'
    await _answer(send, 303, [(b'location', b'/'), (b'set-cookie', cookie.encode())], b'')


async def _answer(
    send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    await send({'type': 'http.response.start', 'status': status, 'headers': headers})
    await send({'type': 'http.response.body', 'body': body})
