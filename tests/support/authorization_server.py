"""A real authorization server, Authlib's over Flask, in a thread: client credentials for a JWT."""

import threading
import time
from contextlib import contextmanager
from wsgiref.simple_server import WSGIRequestHandler, make_server

import httpx
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import ClientMixin, grants
from authlib.oauth2.rfc9068 import JWTBearerTokenGenerator
from flask import Flask, jsonify
from joserfc.jwk import KeySet, RSAKey

SECRET = "secret-of-a-client"


class Client(ClientMixin):
    """A client that may have every scope; its tokens are for itself."""

    def __init__(self, client_id):
        self.client_id = client_id

    def get_client_id(self):
        return self.client_id

    def get_allowed_scope(self, scope):
        return scope

    def check_client_secret(self, client_secret):
        return client_secret == SECRET

    def check_endpoint_auth_method(self, method, endpoint):
        return method == "client_secret_basic"

    def check_grant_type(self, grant_type):
        return grant_type == "client_credentials"


class Tokens(JWTBearerTokenGenerator):
    def __init__(self, issuer):
        super().__init__(issuer.url)
        self._issuer = issuer

    def get_jwks(self):
        return KeySet([self._issuer.keys[-1]])

    def get_audiences(self, client, user, scope):
        return self._issuer.audience


class Issuer:
    """What a test sees of it.

    Attributes:
        url: Its name.
        audience: What its tokens are for.
        keys: Its keys; it signs with the last one.
        asked: How often its keys were fetched.
        down: Whether it answers with errors alone.
    """

    def __init__(self, audience):
        self.url = ""
        self.audience = audience
        self.keys = []
        self.asked = 0
        self.down = False
        self.rotate()

    def rotate(self):
        """Sign with another key from now on; the older ones are still published."""
        parameters = {"kid": f"key-{len(self.keys)}", "use": "sig", "alg": "RS256"}
        self.keys.append(RSAKey.generate_key(2048, parameters))

    def token(self, client_id="alice", scope=""):
        """Ask for an access token, as a client does."""
        asked = {"grant_type": "client_credentials", "scope": scope}
        answer = httpx.post(f"{self.url}/token", data=asked, auth=(client_id, SECRET))
        return answer.raise_for_status().json()["access_token"]

    def app(self):
        app = Flask("issuer")
        server = AuthorizationServer(
            app, query_client=Client, save_token=lambda token, request: None
        )
        server.register_token_generator("default", Tokens(self))
        server.register_grant(grants.ClientCredentialsGrant)

        @app.post("/token")
        def token():
            return server.create_token_response()

        @app.get("/.well-known/oauth-authorization-server")
        def metadata():
            return jsonify(issuer=self.url, jwks_uri=f"{self.url}/keys")

        @app.get("/keys")
        def keys():
            self.asked += 1
            if self.down:
                return "down", 503
            return jsonify(KeySet(self.keys).as_dict(private=False))

        return app


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass


@contextmanager
def authorization_server(audience):
    """Run one for the block."""
    issuer = Issuer(audience)
    with make_server("127.0.0.1", 0, None, handler_class=_Quiet) as server:
        issuer.url = f"http://127.0.0.1:{server.server_port}"
        server.set_app(issuer.app())
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield issuer
        finally:
            server.shutdown()
            thread.join()


def claims(issuer, **changes):
    """Return the claims of a good token, with changes; None leaves one out."""
    now = int(time.time())
    good = {"iss": issuer.url, "aud": issuer.audience, "sub": "alice", "iat": now, "exp": now + 600}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}
