"""The commands of the how-to and the Terraform modules, executed against moto, which imitates AWS.

Terraform itself does not run: `applied_terraform.py` calls the APIs with the arguments of the modules.
"""

import sys
from functools import cache
from pathlib import Path

import pytest

from tests.deploy.applied_terraform import AppliedModule, ArgumentError, fields_of
from tests.deploy.test_deploy_page import COMMANDS, values_of
from tests.deploy.test_terraform import Module, texts_of

FOLDER = Path(sys.prefix) / "aws"
"""Where the Makefile installs moto and boto3 for these tests alone."""
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="moto is not installed; run `make test`")

REGION = "eu-central-1"
ACCOUNT = "123456789012"
IMAGE = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/team/aisle@sha256:{'0' * 64}"
PACKAGE = b"a model.tar.gz"


@pytest.fixture(scope="module", autouse=True)
def on_the_path():
    sys.path.append(str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


@pytest.fixture
def client():
    """Return a function from a service to a client of an empty AWS account."""
    import boto3
    from moto import mock_aws

    with mock_aws(config={"lambda": {"use_docker": False}}):
        session = boto3.Session(region_name=REGION)
        yield session.client


def command(*start):
    """Return the command of the how-to that begins with these words."""
    (found,) = (words for words in COMMANDS if words[: len(start)] == list(start))
    return found


def variables_of(folder):
    """Return the variables that the how-to gives to a module."""
    words = command("terraform", f"-chdir=deploy/terraform/{folder}", "apply")
    given = dict(value.split("=", 1) for value in values_of(words, "-var"))
    return {**given, "image_uri": given["image_uri"].replace("IMAGE", IMAGE)}


parsed = cache(Module)


def applied(folder, client, *, texts=None, **given):
    return AppliedModule(
        parsed(tuple(texts or texts_of(folder))), {**variables_of(folder), **given}, client
    ).apply()


@pytest.fixture
def uploaded(client, tmp_path):
    """The bucket and the key of the package that the how-to uploads."""
    _, _, _, source, target = command("aws", "s3", "cp")
    bucket, key = target.removeprefix("s3://").split("/", 1)
    (tmp_path / source).write_bytes(PACKAGE)
    client("s3").create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})

    client("s3").upload_file(str(tmp_path / source), bucket, key)

    return bucket, key


def test_the_commands_of_the_page_make_an_endpoint_of_the_package_and_send_it_a_request(client, uploaded):
    module = applied("sagemaker", client, invoker_role_names=[])
    words = command("aws", "sagemaker-runtime", "invoke-endpoint")
    flags = {words[at][2:].replace("-", "_"): words[at + 1] for at in range(3, len(words) - 1, 2)}
    flags["body"] = b'{"query": "red sofa"}'
    runtime = client("sagemaker-runtime")
    shape = runtime.meta.service_model.operation_model("InvokeEndpoint").input_shape

    answer = runtime.invoke_endpoint(**fields_of(flags, shape, "invoke-endpoint", {}))

    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
    sagemaker = client("sagemaker")
    endpoint = sagemaker.describe_endpoint(EndpointName=flags["endpoint_name"])
    assert endpoint["EndpointName"] == module.outputs["endpoint_name"] == "shop"
    configured = sagemaker.describe_endpoint_config(EndpointConfigName=endpoint["EndpointConfigName"])
    (variant,) = configured["ProductionVariants"]
    assert variant["ServerlessConfig"] == {"MemorySizeInMB": 2048, "MaxConcurrency": 5}
    model = sagemaker.describe_model(ModelName=variant["ModelName"])
    assert model["PrimaryContainer"]["Image"] == IMAGE
    assert model["PrimaryContainer"]["ModelDataUrl"] == "s3://{}/{}".format(*uploaded)
    assert model["ExecutionRoleArn"] == module.outputs["execution_role_arn"]
    (group,) = client("logs").describe_log_groups()["logGroups"]
    assert (group["logGroupName"], group["retentionInDays"]) == ("/aws/sagemaker/Endpoints/shop", 30)


def test_the_role_reads_its_package_and_nothing_else(client, uploaded):
    import boto3
    from botocore.exceptions import ClientError
    from moto.core import set_initial_no_auth_action_count

    bucket, key = uploaded
    client("s3").put_object(Bucket=bucket, Key="other", Body=b"x")
    module = applied("sagemaker", client)
    role = module.outputs["execution_role_arn"]
    given = client("sts").assume_role(RoleArn=role, RoleSessionName="container")["Credentials"]
    s3 = boto3.client(
        "s3",
        region_name=REGION,
        aws_access_key_id=given["AccessKeyId"],
        aws_secret_access_key=given["SecretAccessKey"],
        aws_session_token=given["SessionToken"],
    )

    @set_initial_no_auth_action_count(0)
    def with_permissions_checked():
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == PACKAGE
        for denied in (
            lambda: s3.get_object(Bucket=bucket, Key="other"),
            lambda: s3.list_objects_v2(Bucket=bucket),
            lambda: s3.put_object(Bucket=bucket, Key=key, Body=b"y"),
        ):
            with pytest.raises(ClientError, match="AccessDenied"):
                denied()

    with_permissions_checked()


@pytest.mark.parametrize(
    ("folder", "action"), [("sagemaker", "InvokeEndpoint"), ("lambda", "InvokeFunctionUrl")]
)
def test_an_invoker_gets_the_policy_that_lets_it_send_requests(folder, action, client):
    iam = client("iam")
    iam.create_role(RoleName="web", AssumeRolePolicyDocument='{"Version": "2012-10-17", "Statement": []}')

    module = applied(folder, client, invoker_role_names=["web"])

    (attached,) = iam.list_attached_role_policies(RoleName="web")["AttachedPolicies"]
    assert attached["PolicyArn"] == module.outputs["invoke_policy_arn"]
    policy = iam.get_policy_version(PolicyArn=attached["PolicyArn"], VersionId="v1")["PolicyVersion"]
    first = policy["Document"]["Statement"][0]
    assert first["Action"] == [f"{folder}:{action}"]
    assert all(resource.endswith(("endpoint/shop", "function:shop")) for resource in first["Resource"])


def test_an_encrypted_package_and_containers_that_are_always_ready(client):
    key = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1"

    applied("sagemaker", client, kms_key_arn=key, provisioned_concurrency=2)

    (role,) = client("iam").list_roles()["Roles"]
    (name,) = client("iam").list_role_policies(RoleName=role["RoleName"])["PolicyNames"]
    policy = client("iam").get_role_policy(RoleName=role["RoleName"], PolicyName=name)["PolicyDocument"]
    assert [one["Resource"] for one in policy["Statement"] if one["Action"] == ["kms:Decrypt"]] == [[key]]
    (found,) = client("sagemaker").list_endpoint_configs()["EndpointConfigs"]
    configured = client("sagemaker").describe_endpoint_config(EndpointConfigName=found["EndpointConfigName"])
    assert configured["ProductionVariants"][0]["ServerlessConfig"]["ProvisionedConcurrency"] == 2


def test_the_function_has_the_image_and_a_url_for_signed_requests(client):
    module = applied("lambda", client)

    function = client("lambda").get_function(FunctionName="shop")
    assert function["Code"]["ImageUri"] == IMAGE
    assert function["Concurrency"]["ReservedConcurrentExecutions"] == 10
    configured = function["Configuration"]
    assert (configured["MemorySize"], configured["Timeout"], configured["PackageType"]) == (2048, 60, "Image")
    url = client("lambda").get_function_url_config(FunctionName="shop")
    assert url["AuthType"] == "AWS_IAM"
    assert url["FunctionArn"] == configured["FunctionArn"]
    assert module.outputs["invoke_policy_arn"]


@pytest.mark.parametrize(
    ("folder", "right", "wrong", "message"),
    [
        ("sagemaker", "memory_size_in_mb       = var", "memory_size = var", "memory_size: the API takes"),
        ("sagemaker", "model_data_url =", "model_url =", "model_url: the API takes"),
        ("sagemaker", "execution_role_arn = aws", "role_arn = aws", "role_arn: the API takes"),
        ("lambda", "image_uri        ", "image", "image"),
        ("lambda", "memory_size      ", "memory", "memory: the API takes"),
    ],
)
def test_an_argument_that_the_api_lacks_is_found(folder, right, wrong, message, client):
    texts = [text.replace(right, wrong) for text in texts_of(folder)]
    assert texts != texts_of(folder)

    with pytest.raises((ArgumentError, KeyError), match=message):
        applied(folder, client, texts=texts)


@pytest.mark.parametrize(
    ("folder", "right", "wrong", "message"),
    [
        ("sagemaker", "= var.memory_size_in_mb", "= 1000", "MemorySizeInMB, value: 1000"),
        ("sagemaker", "= var.max_concurrency\n", "= 0\n", "MaxConcurrency, value: 0"),
        ("sagemaker", "= aws_sagemaker_endpoint_configuration.search.name", '= "none"', "Could not find"),
        ("sagemaker", "= aws_iam_role.execution.id", '= "none"', "NoSuchEntity"),
        ("lambda", "= var.memory_size\n", "= 64\n", "MemorySize, value: 64"),
        ("lambda", '"Image"', '["Image"]', "PackageType, value: .* type: <class 'list'>"),
    ],
)
def test_a_value_that_the_api_refuses_is_found(folder, right, wrong, message, client):
    from botocore.exceptions import ClientError, ParamValidationError

    texts = [text.replace(right, wrong) for text in texts_of(folder)]
    assert texts != texts_of(folder)

    with pytest.raises((ClientError, ParamValidationError), match=message):
        applied(folder, client, texts=texts)
