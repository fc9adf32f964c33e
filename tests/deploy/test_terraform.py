"""The Terraform modules, parsed: references, variables and permissions, without Terraform and without AWS."""

import json
import re
from pathlib import Path

import hcl2
import pytest
from hcl2.utils import SerializationOptions

TERRAFORM = Path(__file__).parents[2] / "deploy" / "terraform"
MODULES = ("sagemaker", "lambda")
PLAIN = SerializationOptions(with_comments=False, explicit_blocks=False, strip_string_quotes=True)

PERMISSIONS = {
    "sagemaker": {
        "assume": {"sts:AssumeRole"},
        "execution": {
            "s3:GetObject",
            "kms:Decrypt",
            "ecr:BatchCheckLayerAvailability",
            "ecr:BatchGetImage",
            "ecr:GetDownloadUrlForLayer",
            "ecr:GetAuthorizationToken",
            "logs:CreateLogGroup",
            "logs:CreateLogStream",
            "logs:DescribeLogStreams",
            "logs:PutLogEvents",
            "cloudwatch:PutMetricData",
        },
        "invoke": {"sagemaker:InvokeEndpoint"},
    },
    "lambda": {
        "assume": {"sts:AssumeRole"},
        "execution": {"logs:CreateLogStream", "logs:PutLogEvents"},
        "invoke": {"lambda:InvokeFunctionUrl", "lambda:InvokeFunction"},
    },
}
"""All that the roles of each module, and the callers of its service, may do."""


class Module:
    """The blocks of a folder of Terraform files.

    Args:
        texts: Contents of the files.
    """

    def __init__(self, texts):
        documents = [hcl2.loads(text, serialization_options=PLAIN) for text in texts]
        self.blocks = {}
        for document in documents:
            for kind, blocks in document.items():
                self.blocks.setdefault(kind, []).extend(blocks)
        self.variables = self._named("variable")
        self.locals = {
            name: value for block in self.blocks.get("locals", []) for name, value in block.items()
        }
        self.outputs = self._named("output")
        self.resources = self._of_types("resource")
        self.data = self._of_types("data")

    def _named(self, kind):
        return {name: content for block in self.blocks[kind] for name, content in block.items()}

    def _of_types(self, kind):
        return {
            (of_type, name): content
            for block in self.blocks[kind]
            for of_type, named in block.items()
            for name, content in named.items()
        }

    @property
    def declared(self):
        """The names that expressions may refer to."""
        return {
            *(f"var.{name}" for name in self.variables),
            *(f"local.{name}" for name in self.locals),
            *(f"data.{of_type}.{name}" for of_type, name in self.data),
            *(f"{of_type}.{name}" for of_type, name in self.resources),
        }

    @property
    def policies(self):
        """Statements of each policy document, with those that depend on a variable."""
        return {
            name: [
                *content.get("statement", []),
                *(part for block in content.get("dynamic", []) for part in block["statement"]["content"]),
            ]
            for (of_type, name), content in self.data.items()
            if of_type == "aws_iam_policy_document"
        }

    def pattern(self, variable):
        """Return the regular expression that a variable must match."""
        condition = self.variables[variable]["validation"][0]["condition"]
        return re.compile(json.loads(re.search(r'regex\(("(?:[^"\\]|\\.)*")', condition)[1]))


def texts_of(folder):
    return [path.read_text(encoding="utf-8") for path in sorted((TERRAFORM / folder).glob("*.tf"))]


def expressions(value):
    """Yield each expression below a value, without the texts that it quotes."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from expressions(part)
    elif isinstance(value, str) and "${" in value:
        whole = value.startswith("${") and value.endswith("}")
        parts = [value[2:-1]] if whole else re.findall(r"\$\{([^}]*)\}", value)
        yield from (re.sub(r'"(?:[^"\\]|\\.)*"', '""', part) for part in parts)


def references(value):
    """Return the names that expressions below a value refer to, such as `var.name` and `aws_iam_role.x`."""
    return {
        name
        for text in expressions(value)
        for name in re.findall(r"(?<![\w.])(?:data\.\w+\.\w+|[a-z]\w*\.\w+)", text)
    }


@pytest.fixture(scope="module", params=MODULES)
def folder(request):
    return request.param


@pytest.fixture(scope="module")
def module(folder):
    return Module(texts_of(folder))


def test_every_name_that_is_used_is_declared_and_the_other_way_round(module):
    used = references(module.blocks) - {"each.value", "statement.value"}

    assert used - module.declared == set()
    assert {name for name in module.declared if name.startswith(("var.", "local."))} - used == set()


def test_a_name_that_is_not_declared_is_found():
    altered = [text.replace("var.memory_size_in_mb\n", "var.memory\n") for text in texts_of("sagemaker")]

    assert "var.memory" in references(Module(altered).blocks) - Module(altered).declared


def test_variables_and_outputs_are_described(module):
    for name, variable in module.variables.items():
        assert variable["description"].endswith("."), name
        assert "type" in variable, name
    for name, output in module.outputs.items():
        assert output["description"].endswith("."), name


def test_only_the_name_and_the_place_of_image_and_model_must_be_given(folder, module):
    required = {name for name, variable in module.variables.items() if "default" not in variable}

    of_model = {"model_bucket", "model_key"} if folder == "sagemaker" else set()
    assert required == {"name", "image_uri", *of_model}


def test_permissions_are_these_and_no_others(folder, module):
    found = {
        name: {action for statement in statements for action in statement["actions"]}
        for name, statements in module.policies.items()
    }

    assert found == PERMISSIONS[folder]


def test_a_permission_names_its_resources_where_the_action_has_resources(module):
    everywhere = [
        statement
        for name, statements in module.policies.items()
        for statement in statements
        if name != "assume" and any("*" in resource.removesuffix(":*") for resource in statement["resources"])
    ]

    for statement in everywhere:
        assert statement["resources"] == ["*"]
        (action,) = statement["actions"]
        limited = [(one["test"], one["variable"]) for one in statement.get("condition", [])]
        without_resources = {
            "ecr:GetAuthorizationToken": [],
            "cloudwatch:PutMetricData": [("StringEquals", "cloudwatch:namespace")],
        }
        assert limited == without_resources[action]


def test_a_role_is_for_one_service_and_its_policies_are_attached_to_it(folder, module):
    (assume,) = module.policies["assume"]
    assert assume["principals"] == [{"type": "Service", "identifiers": [f"{folder}.amazonaws.com"]}]
    policy = module.resources["aws_iam_role_policy", "execution"]
    assert policy["role"] == "${aws_iam_role.execution.id}"
    assert policy["policy"] == "${data.aws_iam_policy_document.execution.json}"
    attachment = module.resources["aws_iam_role_policy_attachment", "invoke"]
    assert attachment["for_each"] == "${var.invoker_role_names}"


def test_the_image_is_named_by_digest_and_so_cannot_change_behind_terraform(module):
    image = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/team/aisle"
    pattern = module.pattern("image_uri")

    assert pattern.search(f"{image}@sha256:{'0' * 64}")
    for other in (f"{image}:latest", image, f"{image}@sha256:{'0' * 63}", f"x{image}@sha256:{'0' * 64}"):
        assert not pattern.search(other)


def test_the_endpoint_is_serverless_and_changes_with_its_configuration():
    module = Module(texts_of("sagemaker"))
    configuration = module.resources["aws_sagemaker_endpoint_configuration", "search"]
    (variant,) = configuration["production_variants"]

    assert set(variant["serverless_config"][0]) == {
        "memory_size_in_mb",
        "max_concurrency",
        "provisioned_concurrency",
    }
    assert not {"instance_type", "initial_instance_count"} & set(variant)
    # A fixed name would have to be deleted before it is made again, while the endpoint uses it.
    assert "name" not in configuration
    assert configuration["lifecycle"][0]["create_before_destroy"] is True
    model = module.resources["aws_sagemaker_model", "search"]
    assert "name" not in model
    assert model["lifecycle"][0]["create_before_destroy"] is True
    # Serverless endpoints take neither network isolation nor a VPC.
    assert not {"enable_network_isolation", "vpc_config"} & set(model)


def test_sizes_are_those_that_sagemaker_and_lambda_take():
    """Limits of ProductionVariantServerlessConfig and of CreateFunction in the services' API references."""
    sagemaker, of_lambda = Module(texts_of("sagemaker")).variables, Module(texts_of("lambda")).variables
    memory = sagemaker["memory_size_in_mb"]["validation"][0]["condition"]
    assert str([1024 * size for size in range(1, 7)]) in memory
    concurrency = sagemaker["max_concurrency"]["validation"][0]["condition"]
    assert re.findall(r"\d+", concurrency) == ["1", "200"]
    assert re.findall(r"\d+", of_lambda["memory_size"]["validation"][0]["condition"])[1] == "10240"
    assert re.findall(r"\d+", of_lambda["timeout"]["validation"][0]["condition"])[1] == "900"


def test_the_function_url_takes_signed_requests_only():
    module = Module(texts_of("lambda"))

    assert module.resources["aws_lambda_function_url", "search"]["authorization_type"] == "AWS_IAM"
    assert not any(of_type == "aws_lambda_permission" for of_type, _ in module.resources)
    conditions = {
        statement["actions"][0]: [(one["variable"], one["values"]) for one in statement["condition"]]
        for statement in module.policies["invoke"]
    }
    assert conditions == {
        "lambda:InvokeFunctionUrl": [("lambda:FunctionUrlAuthType", ["AWS_IAM"])],
        "lambda:InvokeFunction": [("lambda:InvokedViaFunctionUrl", ["true"])],
    }


def test_the_logs_go_to_the_group_that_the_role_may_write(folder, module):
    names = {
        "sagemaker": ("endpoint", "/aws/sagemaker/Endpoints/${var.name}"),
        "lambda": ("function", "/aws/lambda/${var.name}"),
    }
    resource, name = names[folder]

    group = module.resources["aws_cloudwatch_log_group", resource]
    assert group["name"] == name
    writes = next(
        statement for statement in module.policies["execution"] if "logs:PutLogEvents" in statement["actions"]
    )
    arn = f"${{aws_cloudwatch_log_group.{resource}.arn}}"
    assert f"{arn}:*" in writes["resources"]
    assert set(writes["resources"]) <= {arn, f"{arn}:*"}
