"""OpenAPI documents as they are found in public, small: a shop for pets, and one of version 3.1."""

from __future__ import annotations

import copy
from typing import Any

Node = dict[str, Any]


def schema(name: str) -> Node:
    return {"$ref": f"#/components/schemas/{name}"}


def answer(of: Node, status: str = "200") -> Node:
    return {status: {"description": "ok", "content": {"application/json": {"schema": of}}}}


_SCHEMAS: Node = {
    "Owner": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "pets": {"type": "array", "items": schema("Pet")},
        },
    },
    "NewPet": {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "minLength": 1},
            "tag": {"type": "string", "nullable": True, "example": "dog"},
            "age": {"type": "integer", "minimum": 0, "exclusiveMinimum": True},
            "owner": schema("Owner"),
            "secret": {"type": "string", "writeOnly": True},
            "x-internal": {"type": "string"},
        },
        "xml": {"name": "Pet"},
        "x-vendor": 1,
    },
    "Pet": {
        "allOf": [
            schema("NewPet"),
            {
                "type": "object",
                "required": ["id"],
                "properties": {"id": {"type": "integer", "format": "int64", "readOnly": True}},
            },
        ]
    },
    "Cat": {"type": "object", "required": ["meow"], "properties": {"meow": {"type": "boolean"}}},
    "Dog": {"type": "object", "required": ["bark"], "properties": {"bark": {"type": "boolean"}}},
    "Animal": {
        "oneOf": [schema("Cat"), schema("Dog")],
        "discriminator": {"propertyName": "kind"},
    },
    "Tree": {
        "type": "object",
        "properties": {
            "value": {"type": "string"},
            "children": {"type": "array", "items": schema("Tree")},
        },
    },
}

PETS: Node = {
    "openapi": "3.0.3",
    "info": {"title": "Pets", "version": "1.2", "description": "A shop."},
    "servers": [
        {
            "url": "https://{region}.pets.example/{base}/",
            "variables": {"region": {"default": "eu"}, "base": {"default": "v1"}},
        },
        {"url": "https://other.example/v9"},
    ],
    "components": {
        "schemas": _SCHEMAS,
        "parameters": {
            "Limit": {
                "name": "limit",
                "in": "query",
                "description": "how many",
                "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
            }
        },
        "requestBodies": {
            "Pet": {
                "required": True,
                "description": "the pet",
                "content": {
                    "application/xml": {"schema": schema("NewPet")},
                    "application/json": {"schema": schema("NewPet")},
                },
            }
        },
        "securitySchemes": {
            "key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
            "keyInQuery": {"type": "apiKey", "in": "query", "name": "api_key"},
            "session": {"type": "apiKey", "in": "cookie", "name": "sid"},
            "bearer": {"type": "http", "scheme": "bearer"},
        },
    },
    "security": [{"key": []}],
    "paths": {
        "x-ignored": 1,
        "/pets": {
            "parameters": [
                {"$ref": "#/components/parameters/Limit"},
                {"name": "X-Trace", "in": "header", "schema": {"type": "string"}},
            ],
            "get": {
                "operationId": "listPets",
                "summary": "List pets",
                "description": "All pets, by pages.",
                "parameters": [
                    {"name": "x-trace", "in": "header", "schema": {"type": "integer"}},
                    {"name": "X-API-Key", "in": "header", "schema": {"type": "string"}},
                    {"name": "Authorization", "in": "header", "schema": {"type": "string"}},
                    {"name": "api_key", "in": "query", "schema": {"type": "string"}},
                    {"name": "sid", "in": "cookie", "schema": {"type": "string"}},
                    {"name": "theme", "in": "cookie", "schema": {"type": "string"}},
                    {
                        "name": "tags",
                        "in": "query",
                        "schema": {"type": "array", "items": {"type": "string"}},
                    },
                    {
                        "name": "filter",
                        "in": "query",
                        "style": "deepObject",
                        "schema": {"type": "object"},
                    },
                    {
                        "name": "where",
                        "in": "query",
                        "content": {"application/json": {"schema": schema("Tree")}},
                    },
                ],
                "responses": answer({"type": "array", "items": schema("Pet")}),
            },
            "post": {
                "summary": "Add a pet, whose summary is longer than any title of a tool may be",
                "requestBody": {"$ref": "#/components/requestBodies/Pet"},
                "responses": answer(schema("Pet"), "201"),
            },
        },
        "/pets/{id}": {
            "parameters": [
                {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
            ],
            "get": {"responses": {**answer(schema("Pet")), "404": {"description": "none"}}},
            "put": {
                "operationId": "replace/pet",
                "requestBody": {"$ref": "#/components/requestBodies/Pet"},
                "responses": {"204": {"description": "done"}},
            },
            "delete": {"responses": {"204": {"description": "gone"}}},
        },
        "/pets/{id}/photo": {
            "post": {
                "operationId": "upload",
                "requestBody": {
                    "content": {
                        "multipart/form-data": {
                            "schema": {
                                "type": "object",
                                "required": ["file"],
                                "properties": {
                                    "file": {"type": "string", "format": "binary"},
                                    "more": {
                                        "type": "array",
                                        "items": {"type": "string", "format": "binary"},
                                    },
                                    "note": {"type": "string"},
                                    "meta": schema("Tree"),
                                },
                            },
                            "encoding": {"file": {"contentType": "image/png, image/jpeg"}},
                        }
                    }
                },
                "responses": {"200": {"description": "ok"}},
            },
            "put": {
                "operationId": "uploadRaw",
                "requestBody": {"content": {"image/*": {}}},
                "responses": {"200": {"description": "ok", "content": {"image/png": {}}}},
            },
        },
        "/login": {
            "post": {
                "operationId": "login",
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/x-www-form-urlencoded": {
                            "schema": {
                                "type": "object",
                                "required": ["user"],
                                "properties": {
                                    "user": {"type": "string"},
                                    "scopes": {"type": "array", "items": {"type": "string"}},
                                },
                            }
                        }
                    },
                },
                "responses": {"200": {"description": "ok", "content": {"text/plain": {}}}},
            }
        },
        "/note": {
            "put": {
                "operationId": "note",
                "requestBody": {"content": {"text/plain": {"schema": {"type": "string"}}}},
                "responses": {"200": {"description": "ok", "content": {"text/plain": {}}}},
            }
        },
        "/animals": {
            "post": {
                "operationId": "addAnimal",
                "requestBody": {"content": {"application/json": {"schema": schema("Animal")}}},
                "responses": answer(schema("Tree")),
            }
        },
    },
}

MODERN: Node = {
    "openapi": "3.1.0",
    "info": {"title": "Modern", "version": "2"},
    "paths": {
        "/things/{kind}": {
            "$ref": "#/components/pathItems/Things",
        },
    },
    "components": {
        "pathItems": {
            "Things": {
                "post": {
                    "operationId": "addThing",
                    "requestBody": {
                        "content": {
                            "application/vnd.things+json": {
                                "schema": {
                                    "$ref": "#/components/schemas/Thing",
                                    "description": "a thing",
                                    "minProperties": 1,
                                }
                            }
                        }
                    },
                    "responses": answer(schema("Thing")),
                }
            }
        },
        "schemas": {
            "Thing": {
                "type": "object",
                "properties": {
                    "size": {"type": ["number", "null"], "exclusiveMinimum": 0},
                    "kind": {"const": "thing"},
                    "next": {"anyOf": [{"$ref": "#/components/schemas/Thing"}, {"type": "null"}]},
                    "pair": {"prefixItems": [{"type": "string"}, True], "items": False},
                },
                "additionalProperties": False,
            }
        },
    },
}


def pets() -> Node:
    return copy.deepcopy(PETS)


def modern() -> Node:
    return copy.deepcopy(MODERN)
