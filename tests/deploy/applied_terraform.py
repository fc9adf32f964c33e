"""Apply a parsed Terraform module with boto3, so that moto, which imitates AWS, checks its arguments.

An argument of a resource becomes the field of the API's request with the same name, as in Terraform's AWS
provider. An argument without a field is an error, and botocore and moto check the values.
"""

import json
import re

CALLS = {
    "aws_cloudwatch_log_group": ("logs", "create_log_group", {"name": "logGroupName"}),
    "aws_iam_role": (
        "iam",
        "create_role",
        {"name": "RoleName", "assume_role_policy": "AssumeRolePolicyDocument"},
    ),
    "aws_iam_role_policy": (
        "iam",
        "put_role_policy",
        {"name": "PolicyName", "role": "RoleName", "policy": "PolicyDocument"},
    ),
    "aws_iam_policy": ("iam", "create_policy", {"name": "PolicyName", "policy": "PolicyDocument"}),
    "aws_iam_role_policy_attachment": ("iam", "attach_role_policy", {"role": "RoleName"}),
    "aws_sagemaker_model": ("sagemaker", "create_model", {"name": "ModelName"}),
    "aws_sagemaker_endpoint_configuration": (
        "sagemaker",
        "create_endpoint_config",
        {"name": "EndpointConfigName"},
    ),
    "aws_sagemaker_endpoint": ("sagemaker", "create_endpoint", {"name": "EndpointName"}),
    "aws_lambda_function": ("lambda", "create_function", {}),
    "aws_lambda_function_url": (
        "lambda",
        "create_function_url_config",
        {"authorization_type": "AuthType"},
    ),
}
"""Type of a resource -> service, call, and the fields that have other names than the arguments."""
SEPARATE = {
    "retention_in_days": ("logs", "put_retention_policy", "logGroupName"),
    "reserved_concurrent_executions": ("lambda", "put_function_concurrency", "FunctionName"),
}
"""Argument -> service and call that take it besides the call of the resource, and the field of the name."""
OF_TERRAFORM = {"depends_on", "lifecycle", "for_each", "name_prefix"}
GENERATED_NAMES = {"aws_sagemaker_model"}
"""Resources that get a name if none is given."""


class ArgumentError(Exception):
    """The API has no field for an argument."""


class AppliedModule:
    """The resources of a module, made in their order when they are first used.

    Args:
        module: The parsed module.
        given: Values of its variables.
        client: Function from a service to its boto3 client.
    """

    def __init__(self, module, given, client):
        self._module = module
        self._client = client
        self._variables = {
            name: given.get(name, variable.get("default")) for name, variable in module.variables.items()
        }
        self._made = {}
        self.outputs = {}

    def apply(self):
        """Make every resource, and compute the outputs."""
        for of_type, name in self._module.resources:
            self.resource(of_type, name)
        self.outputs = {name: self._value(output["value"]) for name, output in self._module.outputs.items()}
        return self

    def resource(self, of_type, name):
        """Return the attributes of a resource."""
        if (of_type, name) not in self._made:
            content = self._module.resources[of_type, name]
            for other in content.get("depends_on", []):
                self._value(other)
            if "for_each" in content:
                made = [self._make(of_type, content, each) for each in self._value(content["for_each"])]
            else:
                made = self._make(of_type, content, None)
            self._made[of_type, name] = made
        return self._made[of_type, name]

    def _make(self, of_type, content, each):
        arguments = {
            name: self._value(value, each=each) for name, value in content.items() if name not in OF_TERRAFORM
        }
        if "name_prefix" in content:
            arguments["name"] = f"{self._value(content['name_prefix'])}{len(self._made):04}"
        elif of_type in GENERATED_NAMES:
            arguments.setdefault("name", f"terraform-{len(self._made):04}")
        service, call, names = CALLS[of_type]
        separate = {name: arguments.pop(name) for name in SEPARATE if name in arguments}
        answer = self.call(service, call, self._as_in_api(of_type, arguments), names, of_type)
        name = arguments.get("name", arguments.get("function_name"))
        for argument, value in separate.items():
            service, call, named = SEPARATE[argument]
            self.call(service, call, {named: name, argument: value}, {named: named}, of_type)
        if of_type == "aws_cloudwatch_log_group":
            (answer,) = self._client("logs").describe_log_groups(logGroupNamePrefix=name)["logGroups"]
            answer = {"arn": answer["arn"].removesuffix(":*")}
        answered = {
            re.sub(r"(?<=[a-z])(?=[A-Z])", "_", field).lower(): value for field, value in answer.items()
        }
        return {**answered, **arguments, "id": name, "name": name, "arn": _arn(answer)}

    @staticmethod
    def _as_in_api(of_type, arguments):
        """Return arguments in the structure of the API."""
        if of_type == "aws_lambda_function":
            arguments = {**arguments, "code": {"image_uri": arguments["image_uri"]}}
            del arguments["image_uri"]
        return arguments

    def call(self, service, call, arguments, names, place):
        """Call an API with the arguments that have a value."""
        client = self._client(service)
        operation = client.meta.service_model.operation_model(client.meta.method_to_api_mapping[call])
        return getattr(client, call)(**fields_of(arguments, operation.input_shape, place, names))

    def _value(self, value, **scope):
        """Return a value with its expressions computed."""
        if isinstance(value, dict):
            return {name: self._value(part, **scope) for name, part in value.items()}
        if isinstance(value, list):
            return [self._value(part, **scope) for part in value]
        if not isinstance(value, str) or "${" not in value:
            return value
        if re.fullmatch(r"\$\{[^{}]*\}", value) or value.startswith("${regex("):
            return self._expression(value[2:-1], scope)
        return re.sub(r"\$\{([^{}]*)\}", lambda found: str(self._expression(found[1], scope)), value)

    def _expression(self, text, scope):
        text = text.strip()
        if found := re.fullmatch(r"(\S+) == null \? (.*) : (.*)", text):
            missing = self._expression(found[1], scope) is None
            return self._expression(found[2 if missing else 3], scope)
        if found := re.fullmatch(r'regex\(("(?:[^"\\]|\\.)*"), (\S+)\)', text):
            return re.search(json.loads(found[1]), self._expression(found[2], scope)).groupdict()
        if text.startswith("["):
            return [self._expression(part, scope) for part in text[1:-1].split(",") if part]
        return self._reference(text.split("."), scope)

    def _reference(self, parts, scope):
        kind, *rest = parts
        if kind == "var":
            return self._variables[rest[0]]
        if kind in scope:
            return scope[kind]
        if kind == "local":
            found, rest = self._value(self._module.locals[rest[0]]), rest[1:]
        elif kind == "data":
            found, rest = self._data(*rest[:2]), rest[2:]
        else:
            found, rest = self.resource(kind, rest[0]), rest[1:]
        for name in rest:
            found = found[name]
        return found

    def _data(self, of_type, name):
        if of_type == "aws_iam_policy_document":
            return {"json": json.dumps(self._policy(self._module.data[of_type, name]))}
        identity = self._client("sts").get_caller_identity()
        region = self._client("sts").meta.region_name
        return {
            "aws_caller_identity": {"account_id": identity["Account"]},
            "aws_partition": {"partition": identity["Arn"].split(":")[1]},
            "aws_region": {"id": region},
        }[of_type]

    def _policy(self, document):
        statements = [self._value(statement) for statement in document.get("statement", [])]
        for dynamic in document.get("dynamic", []):
            block = dynamic["statement"]
            for each in self._value(block["for_each"]):
                statements += [self._value(content, statement=each) for content in block["content"]]
        return {"Version": "2012-10-17", "Statement": [_statement(one) for one in statements]}


def fields_of(arguments, shape, place, names):
    """Return the fields of a request, or of a part of it, from arguments that have a value.

    Args:
        arguments: Values by Terraform's names.
        shape: Botocore's description of the fields.
        place: What the arguments belong to, for messages.
        names: Fields by argument where the names differ.

    Raises:
        ArgumentError: An argument has no field.
    """
    alike = {name.lower(): name for name in shape.members}
    fields = {}
    for argument, value in arguments.items():
        name = names.get(argument, alike.get(argument.replace("_", "")))
        if name is None:
            raise ArgumentError(f"{place}: {argument}: the API takes {', '.join(shape.members)}")
        if value is not None:
            fields[name] = _field(value, shape.members[name], f"{place}: {argument}")
    return fields


def _field(value, shape, place):
    if shape.type_name == "structure":
        return fields_of(value[0] if isinstance(value, list) else value, shape, place, {})
    if shape.type_name == "list" and isinstance(value, dict):  # tags
        return [{"Key": key, "Value": text} for key, text in value.items()]
    if shape.type_name == "list" and shape.member.type_name == "structure":
        return [fields_of(part, shape.member, place, {}) for part in value]
    return value


def _arn(answer):
    """Return the ARN in an answer; None if there is none."""
    for name, value in answer.items():
        if name.lower().endswith("arn") and isinstance(value, str):
            return value
        if isinstance(value, dict) and name != "ResponseMetadata" and _arn(value):
            return _arn(value)
    return None


def _statement(given):
    """Return a statement of a policy as IAM has it."""
    statement = {"Effect": "Allow", "Action": given["actions"]}
    if "sid" in given:
        statement["Sid"] = given["sid"]
    if "resources" in given:
        statement["Resource"] = given["resources"]
    if "principals" in given:
        statement["Principal"] = {one["type"]: one["identifiers"] for one in given["principals"]}
    for one in given.get("condition", []):
        statement.setdefault("Condition", {})[one["test"]] = {one["variable"]: one["values"]}
    return statement
