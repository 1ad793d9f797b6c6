"""The stand-in for the AWS provider: boto3 against an emulator on this machine.

Most types are a row of a table. Pulumi's and AWS's names of a property differ in little more than their first letter,
so that botocore's own service models tell how a request is built and what of an answer is wanted.
"""

import base64
import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import yaml
from pulumi.runtime.proto.provider_pb2 import CheckRequest

from localcloud.plugins.base import (
    DEFAULTS,
    Kind,
    Object,
    Provider,
    ProviderError,
    Resource,
    require_loopback,
    serve,
)
from localcloud.plugins.schema import Schema, Type, Value

if TYPE_CHECKING:  # a preview calls nothing, and starts without boto3
    from botocore.client import BaseClient


@dataclass(frozen=True, kw_only=True)
class Row(Kind):
    """One type as operations of a boto3 client.

    The fields are explained in `aws.yaml`, which is the table.
    """

    service: str
    create: str
    read: str
    update: str = ""
    delete: str = ""
    keys: Sequence[str]
    id: str
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    wrap: str = ""
    found: str = ""
    nest: str = ""
    tagging: Sequence[str] = ()


ROWS = {token: Row(**row) for token, row in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text()).items()}
BUCKET = "aws:s3/bucket:Bucket"
OBJECT = "aws:s3/bucketObjectv2:BucketObjectv2"
ALARM = "aws:cloudwatch/metricAlarm:MetricAlarm"
ENDPOINT = "aws:sagemaker/endpoint:Endpoint"


# --- between Pulumi's names and AWS's ---------------------------------------------------------------------------------


def _norm(name: str) -> str:
    """Return what Pulumi's and AWS's names of a property have in common."""
    return name.casefold().rstrip("s")


def _member(members: Iterable[str], name: str) -> str | None:
    return next((member for member in members if _norm(member) == _norm(name)), None)


def to_aws(value: Value, shape: Value, where: str) -> Value:
    """Return a Pulumi value as botocore takes it; Pulumi flattens lists of one, and makes maps of lists of pairs.

    Args:
        value: the value.
        shape: the `botocore.model.Shape` of what is sent.
        where: the property, for the error.

    Raises:
        ProviderError: a property has no counterpart, and would be dropped.
    """
    match shape.type_name:
        case "structure":
            sent: Object = {}
            fields = cast("Object", value[0] if isinstance(value, list) else value)
            for key, item in fields.items():
                member = _member(shape.members, key)
                if member is None:
                    raise ProviderError(f"{where}: the local stand-in for the aws provider does not carry out {key}.")
                sent[member] = to_aws(item, shape.members[member], f"{where}.{key}")
            return sent
        case "list":
            label = _label(shape.member)
            if isinstance(value, dict) and label:
                value = [{label: key, "Value": item} for key, item in cast("Object", value).items()]
            items = cast("list[Value]", value if isinstance(value, list) else [value])
            return [to_aws(item, shape.member, where) for item in items]
        case "float" | "double":
            return float(cast("float | str", value))
        case "string":
            return value if isinstance(value, str) else json.dumps(value)
        case _:
            return value


def _label(shape: Value) -> str:
    """Return `Key` or `Name` if a list of this structure is a map to Pulumi."""
    others = set(getattr(shape, "members", ())) - {"Value"}
    return others.pop() if others in ({"Key"}, {"Name"}) else ""


def from_aws(value: Value, kind: Type, of: Schema) -> Value:
    """Return what botocore answered as a Pulumi value of this type."""
    match kind:
        case {"object": name}:
            fields = cast("Object", value[0] if isinstance(value, list) else value)
            found = {key: _member(fields, key) for key in of.shapes[name].properties}
            types = of.shapes[name].properties
            return {key: from_aws(fields[member], types[key], of) for key, member in found.items() if member}
        case {"array": item}:
            items = cast("list[Value]", value if isinstance(value, list) else [value])
            return [from_aws(each, item, of) for each in items]
        case {"map": _} if isinstance(value, list):
            return {pair.get("Key", pair.get("Name")): pair["Value"] for pair in cast("list[Object]", value)}
        case "boolean" | "integer" | "number" if isinstance(value, str):
            return json.loads(value)
        case "string" | {"anyOf": _}:
            return _text(value)
        case _:
            return value


def _text(value: Value) -> str:
    if isinstance(value, float):  # as the official plugin writes it: 1, not 1.0
        return f"{value:.15g}"
    return json.dumps(value) if isinstance(value, (dict, list)) else str(value)


# --- S3's own ways ----------------------------------------------------------------------------------------------------


def _bucket_request(inputs: Object) -> Object:
    region = inputs["region"]
    place = {} if region == "us-east-1" else {"createBucketConfiguration": {"locationConstraint": region}}
    return inputs | place


def _bucket_outputs(bucket: Object) -> Object:
    name, region = bucket["bucket"], bucket["region"]
    return {
        "arn": f"arn:aws:s3:::{name}",
        "bucketRegion": region,
        "bucketDomainName": f"{name}.s3.amazonaws.com",
        "bucketRegionalDomainName": f"{name}.s3.{region}.amazonaws.com",
    }


def _object_request(inputs: Object) -> Object:
    asset: Object = inputs.get("source") or {}
    body: str | bytes = inputs.get("content", "")
    if "path" in asset:
        body = Path(asset["path"]).read_bytes()
    elif asset:
        body = asset["text"]
    elif "contentBase64" in inputs:
        body = base64.b64decode(inputs["contentBase64"])
    kept = {
        key: value for key, value in inputs.items() if key not in ("source", "sourceHash", "content", "contentBase64")
    }
    return kept | {"body": body}


def _object_outputs(stored: Object) -> Object:
    return {"arn": f"arn:aws:s3:::{stored['bucket']}/{stored['key']}", "etag": stored["etag"].strip('"')}


# --- CloudWatch's own ways --------------------------------------------------------------------------------------------


def _alarm_request(inputs: Object) -> Object:
    """Part what Pulumi has in one: which metric, and which statistic of it."""
    queries: list[Object] = []
    for query in inputs.get("metricQueries", ()):
        metric: Object = query.get("metric") or {}
        which = {key: item for key, item in metric.items() if key in ("metricName", "namespace", "dimensions")}
        statistic = {key: item for key, item in metric.items() if key not in which}
        rest = {key: item for key, item in query.items() if key != "metric"}
        queries.append(rest | ({"metricStat": {"metric": which, **statistic}} if metric else {}))
    return inputs | ({"metricQueries": queries} if queries else {})


def _alarm_answer(answer: Object) -> Object:
    """Join what `_alarm_request` parts."""
    queries: list[Object] = []
    for query in answer.get("Metrics", ()):
        statistic: Object = query.get("MetricStat", {})
        queries.append(query | ({"Metric": statistic | statistic["Metric"]} if statistic else {}))
    return answer | {"Metrics": queries}


PREPARE: dict[str, Callable[[Object], Object]] = {
    BUCKET: _bucket_request,
    OBJECT: _object_request,
    ALARM: _alarm_request,
}
ANSWER: dict[str, Callable[[Object], Object]] = {ALARM: _alarm_answer}
OUTPUTS: dict[str, Callable[[Object], Object]] = {BUCKET: _bucket_outputs, OBJECT: _object_outputs}


# --- requests ---------------------------------------------------------------------------------------------------------


def sendable(token: str, inputs: Object, region: str) -> Object:
    """Return those inputs of a resource that are for AWS: its tags are sent by an operation of their own."""
    unsent = {"region", "forceDestroy", "forceDetachPolicies", "namePrefix", "bucketPrefix", DEFAULTS}
    if ROWS[token].tagging:
        unsent.add("tags")
    prepared = PREPARE.get(token, dict)(inputs | {"region": region})
    return {key: value for key, value in prepared.items() if key not in unsent}


def tag_set(tags: Object) -> Object:
    """Return tags as the operations that add them call them."""
    return {"tags": tags, "tagging": {"tagSet": tags}}


def request(token: str, operation: str, properties: Object, service: Value) -> tuple[str, Object]:
    """Return an operation's name in the API and its parameters: those properties that it has members for.

    Args:
        token: the resource type.
        operation: a method of the service's boto3 client.
        properties: by Pulumi's names.
        service: the `botocore.model.ServiceModel` of the type's service.

    Raises:
        ProviderError: the operation creates, and has no member for a property.
    """
    from botocore import xform_name  # noqa: PLC0415 - as above

    row = ROWS[token]
    name = next(each for each in service.operation_names if xform_name(each) == operation)
    shape: Value = service.operation_model(name).input_shape
    sent, inside = Object(), Object()
    for key, value in properties.items():
        member = row.names.get(key, key)
        if value is not None and _member(shape.members, member):
            sent[member] = value
        elif operation == row.create:
            inside[key] = value
    if inside:
        sent |= {row.wrap: inside} if row.wrap else inside
    return name, to_aws(sent, shape, token)


# --- the provider -----------------------------------------------------------------------------------------------------


class Aws(Provider):
    """AWS, by boto3."""

    package = "aws"

    def __init__(self) -> None:
        super().__init__()
        self._clients: dict[tuple[str, str], BaseClient] = {}
        self._lock = threading.Lock()  # making a client is not thread-safe

    def failures(self) -> tuple[type[Exception], ...]:
        """Return what boto3 raises."""
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - as above

        return (BotoCoreError, ClientError)

    def kind(self, token: str) -> Row:
        """Return the row of a type."""
        if token not in ROWS:
            raise ProviderError(f"The local stand-in for the aws provider has no {token}; it has {', '.join(ROWS)}.")
        return ROWS[token]

    def known(self) -> Sequence[str]:
        """Return every type of the table."""
        return ("pulumi:providers:aws", *ROWS)

    def complete(self, request: CheckRequest, olds: Object, news: Object) -> None:
        """Add the provider's default tags, as the official plugin does."""
        super().complete(request, olds, news)
        defaults = self.config.get("defaultTags", {}).get("tags", {})
        if defaults and "tags" in self.schema(request.type).inputs.properties:
            news["tags"] = defaults | news.get("tags", {})
        if request.type.endswith(":BucketObjectv2"):
            news.setdefault("key", request.name)

    def preview(self, resource: Resource) -> Object:
        """Return what is known of a resource that is yet to be created: its region and tags are."""
        known = {"region": self._region(resource), "tagsAll": resource.inputs.get("tags", {})}
        outputs = super().preview(resource)
        return outputs | {key: value for key, value in known.items() if key in outputs}

    def preview_update(self, resource: Resource, news: Object) -> Object:
        """Return what is known of a resource that is yet to be changed: its tags are."""
        outputs = super().preview_update(resource, news)
        return outputs | ({"tagsAll": news.get("tags", {})} if "tagsAll" in outputs else {})

    def _region(self, resource: Resource) -> str:
        given = resource.inputs.get("region") or resource.state.get("region") or self.config.get("region")
        return given or os.environ.get("AWS_REGION", "us-east-1")

    def client(self, service: str, region: str) -> "BaseClient":
        """Return a client of the emulator.

        Raises:
            ProviderError: the service's endpoint is not on this machine.
        """
        named = {_norm(name): url for entry in self.config.get("endpoints", ()) for name, url in entry.items()}
        plain = service.replace("-", "")
        default = os.environ.get(
            f"AWS_ENDPOINT_URL_{service.replace('-', '_').upper()}", os.environ.get("AWS_ENDPOINT_URL")
        )
        url = require_loopback("aws", named.get(_norm(plain), default), f"aws:endpoints[0].{plain}")
        from boto3.session import Session  # noqa: PLC0415 - as above
        from botocore.config import Config  # noqa: PLC0415 - as above

        with self._lock:
            if (service, region) not in self._clients:
                self._clients[service, region] = Session(
                    aws_access_key_id=self.config.get("accessKey"), aws_secret_access_key=self.config.get("secretKey")
                ).client(  # pyright: ignore[reportCallIssue, reportUnknownMemberType] - which service is data here
                    service,  # pyright: ignore[reportArgumentType]
                    region_name=region,
                    endpoint_url=url,
                    # the emulator answers 500 to what it lacks: trying again only looks like a hang
                    config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
                )
        return self._clients[service, region]

    def call(self, resource: Resource, operation: str, properties: Object) -> Object:
        """Call an operation with those properties that it has members for.

        Raises:
            ProviderError: the operation creates, and has no member for a property.
        """
        row = self.kind(resource.token)
        client = self.client(row.service, self._region(resource))
        _, parameters = request(resource.token, operation, properties, client.meta.service_model)
        return getattr(client, operation)(**parameters)

    def create(self, resource: Resource) -> Resource:
        """Create it; what cannot be finished is deleted."""
        row = self.kind(resource.token)
        if row.name in row.keys and self.read(resource) is not None:
            raise ProviderError(f"{resource.token} {row.id.format(**resource.inputs)} already exists.")
        answer = self.call(resource, row.create, sendable(resource.token, resource.inputs, self._region(resource)))
        made = self._properties(resource, answer)
        resource = replace(resource, id=row.id.format(**{**resource.inputs, **made}), state=made)
        try:
            resource = replace(resource, state=self.read(resource) or made)
            self._finish(resource, resource.inputs)
        except (*self.failures(), ProviderError):
            self.delete(resource)
            raise
        return resource

    def _finish(self, resource: Resource, inputs: Object) -> None:
        """Set the tags, and wait for what takes time."""
        row = self.kind(resource.token)
        tags: Object = inputs.get("tags") or {}
        before: Object = resource.state.get("tags") or {}
        if row.tagging and tags != before:
            add, remove, _ = row.tagging
            keys = self._keys(resource) | {"resourceArn": resource.state.get("arn")}
            if gone := list(set(before) - set(tags)):
                self.call(resource, remove, keys | {"tagKeys": gone})
            if tags:
                self.call(resource, add, keys | tag_set(tags))
        if resource.token == ENDPOINT:
            self._await_endpoint(resource)

    def _await_endpoint(self, resource: Resource) -> None:
        """Wait until an endpoint is in service, as the official plugin does: after a rollback it is, too."""
        client: Value = self.client("sagemaker", self._region(resource))
        seen: Object = {}

        def settled() -> bool:
            seen.update(client.describe_endpoint(EndpointName=resource.id))
            return seen["EndpointStatus"] not in ("Creating", "Updating", "SystemUpdating", "RollingBack")

        def late() -> str:
            return f"the endpoint {resource.id} is {seen['EndpointStatus']}. {seen.get('FailureReason', '')}".strip()

        self.wait(settled, resource.timeout, late)
        if seen["EndpointStatus"] != "InService":
            raise ProviderError(late())

    def compared(self, token: str, inputs: Object, state: Object) -> Object:
        """Compare with the configuration that an endpoint was seen to serve: a rollback leaves it on the old one."""
        if token != ENDPOINT:
            return inputs
        return inputs | {"endpointConfigName": state.get("endpointConfigName", inputs["endpointConfigName"])}

    def _keys(self, resource: Resource) -> Object:
        """Return what says which one."""
        row = self.kind(resource.token)
        known = resource.state | resource.inputs
        if all(key in known for key in row.keys):
            keys = {key: known[key] for key in row.keys}
        else:  # `get` and `import` give nothing but the id
            pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+?)", re.escape(row.id))
            match = re.fullmatch(pattern, resource.id)
            keys = match.groupdict() if match else {}
        if missing := set(row.keys) - set(keys):
            raise ProviderError(
                f"{resource.token} cannot be found by its id alone: {', '.join(missing)} would be needed."
            )
        return keys

    def read(self, resource: Resource) -> Object | None:
        """Return what AWS has of it."""
        row, keys = self.kind(resource.token), self._keys(resource)
        try:
            answer = self.call(resource, row.read, keys)
        except self.failures() as error:
            if _is_missing(error):
                return None
            raise
        answer = answer.get(row.found) if row.found else answer
        if isinstance(answer, list):  # of what matches
            answer = cast("list[Object]", answer)[0] if answer else None
        if not answer:
            return None
        if row.nest:
            answer = {row.nest: answer}
        live = self._properties(resource, {**answer, **{row.names.get(key, key): item for key, item in keys.items()}})
        if row.tagging:
            tags = self._tags(replace(resource, state=resource.state | live))
            live |= {"tags": tags or None, "tagsAll": tags}
        return live

    def _properties(self, resource: Resource, answer: Object) -> Object:
        """Return those properties of the type that an answer has."""
        row, of = self.kind(resource.token), self.schema(resource.token)
        types = of.computed | of.inputs.properties
        answer = ANSWER.get(resource.token, dict)(answer)
        found = {key: _member(answer, row.names.get(key, key)) for key in types}
        live = {key: from_aws(answer[member], types[key], of) for key, member in found.items() if member}
        if "region" in types:
            live["region"] = self._region(resource)
        return live | (OUTPUTS[resource.token](resource.inputs | live) if resource.token in OUTPUTS else {})

    def _tags(self, resource: Resource) -> Object:
        _, _, operation = self.kind(resource.token).tagging
        try:
            answer = self.call(resource, operation, self._keys(resource) | {"resourceArn": resource.state.get("arn")})
        except self.failures() as error:
            if _is_missing(error):  # NoSuchTagSet
                return {}
            raise
        tags = answer.get("Tags", answer.get("TagSet", []))
        return {tag["Key"]: tag["Value"] for tag in tags}

    def update(self, resource: Resource, news: Object) -> None:
        """Change it in place."""
        row = self.kind(resource.token)
        before = self.compared(resource.token, resource.inputs, resource.state)
        if row.update and _but_tags(before) != _but_tags(news):
            sent = sendable(resource.token, news, self._region(replace(resource, inputs=news)))
            self.call(resource, row.update, self._keys(resource) | sent)
        if row.service == "iam" and "assumeRolePolicy" in news:
            policy = news["assumeRolePolicy"]
            self.call(resource, "update_assume_role_policy", self._keys(resource) | {"policyDocument": policy})
        self._finish(resource, news)

    def delete(self, resource: Resource) -> None:
        """Delete it, and of a versioned bucket's object all versions."""
        row, keys = self.kind(resource.token), self._keys(resource)
        try:
            if "key" in keys or resource.state.get("forceDestroy"):
                self._purge(resource, keys["bucket"], keys.get("key"))
            elif row.delete:
                self.call(resource, row.delete, keys)
            else:  # versioning can only be suspended
                self.call(resource, row.update, keys | {"versioningConfiguration": {"status": "Suspended"}})
        except self.failures() as error:
            if not _is_missing(error):
                raise

    def _purge(self, resource: Resource, bucket: str, key: str | None) -> None:
        client: Value = self.client("s3", self._region(resource))
        for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=key or ""):
            found = [
                {"Key": each["Key"], "VersionId": each["VersionId"]}
                for each in (*page.get("Versions", ()), *page.get("DeleteMarkers", ()))
                if key in (None, each["Key"])
            ]
            if found:
                client.delete_objects(Bucket=bucket, Delete={"Objects": found})
        if key is None:
            client.delete_bucket(Bucket=bucket)

    def invoke(self, token: str, args: Object) -> Object:
        """Answer who and where we are."""
        region = args.get("region") or self._region(Resource(token, {}))
        match token.rpartition(":")[2]:
            case "getCallerIdentity":
                client: Value = self.client("sts", region)
                who = client.get_caller_identity()
                return {"id": who["Account"], "accountId": who["Account"], "arn": who["Arn"], "userId": who["UserId"]}
            case "getRegion":
                return {"id": region, "name": region, "region": region, "endpoint": f"ec2.{region}.amazonaws.com"}
            case "getPartition":
                return {
                    "id": "aws",
                    "partition": "aws",
                    "dnsSuffix": "amazonaws.com",
                    "reverseDnsPrefix": "com.amazonaws",
                }
            case _:
                return super().invoke(token, args)


def _but_tags(inputs: Object) -> Object:
    return {key: value for key, value in inputs.items() if key != "tags"}


def _is_missing(error: Exception) -> bool:
    """Say whether AWS's error means that there is no such thing; each service has its own word for it."""
    answer = getattr(error, "response", {}).get("Error", {})
    code, message = str(answer.get("Code", "")), str(answer.get("Message", ""))
    return (
        code == "404" or code.startswith("NoSuch") or "NotFound" in code
        or (code.startswith("Validation") and ("ould not find" in message or "does not exist" in message))
    )  # fmt: skip


if __name__ == "__main__":
    serve(Aws())
