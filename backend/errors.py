"""One tree of exceptions; those that a client may see carry a stable code, an HTTP status and a French sentence.

The sentence never contains what the client sent. Only `create_app` turns an exception into an answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from backend.core.errors import DoctisError, KnowledgeError

__all__ = ["DoctisError", "KnowledgeError", "ModelError", "PublicError", "SettingsError"]


class SettingsError(DoctisError, ValueError):
    """The environment holds a setting that is unknown or out of bounds; the service does not start."""


class ModelError(DoctisError, RuntimeError):
    """The model file cannot be used; `reason` is a short code, the text is for the operator."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        super().__init__(detail)


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """What is wrong with one field of the request, without its value."""

    field: str
    type: str
    message: str


class PublicError(DoctisError):
    """An error that a client sees."""

    code = "internal_error"
    status = 500
    message = "Une erreur est survenue de notre côté. En cas d'urgence, appelez le 15."
    retry_after_s: int | None = None

    def __init__(self, fields: tuple[FieldProblem, ...] = ()) -> None:
        self.fields = fields
        super().__init__(self.code)


class InvalidRequest(PublicError):
    code, status = "invalid_request", 422
    message = "La demande contient un champ manquant, inconnu ou mal rempli."


class NotJson(PublicError):
    code, status = "not_json", 422
    message = "Le corps de la demande n'est pas du JSON valide."


class BodyTooLarge(PublicError):
    code, status = "body_too_large", 413
    message = "La demande est trop longue (64 Kio au plus)."


class UnsupportedMediaType(PublicError):
    code, status = "unsupported_media_type", 415
    message = "Envoyez la demande en JSON, avec l'en-tête Content-Type: application/json."


class Unauthorized(PublicError):
    code, status = "unauthorized", 401
    message = "Clé d'accès absente ou incorrecte."


class NotFound(PublicError):
    code, status = "not_found", 404
    message = "Cette adresse n'existe pas."


class MethodNotAllowed(PublicError):
    code, status = "method_not_allowed", 405
    message = "Cette méthode HTTP n'est pas permise à cette adresse."


class Overloaded(PublicError):
    code, status = "overloaded", 503
    message = "Le service est trop sollicité. Réessayez dans quelques secondes. En cas d'urgence, appelez le 15."
    retry_after_s = 2


BY_STATUS: dict[int, type[PublicError]] = {
    error.status: error
    for error in (NotFound, MethodNotAllowed, BodyTooLarge, UnsupportedMediaType, Unauthorized, Overloaded)
}
