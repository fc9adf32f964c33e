# A SageMaker serverless endpoint that searches the index in a model.tar.gz of `aisle package --sagemaker`.

data "aws_partition" "current" {}
data "aws_caller_identity" "current" {}
data "aws_region" "current" {}

locals {
  account      = data.aws_caller_identity.current.account_id
  partition    = data.aws_partition.current.partition
  image_parts  = regex("^(?P<account>[0-9]{12})\\.dkr\\.ecr\\.(?P<region>[a-z0-9-]+)\\.[^/]+/(?P<repository>[^@]+)@", var.image_uri)
  repository   = "arn:${local.partition}:ecr:${local.image_parts.region}:${local.image_parts.account}:repository/${local.image_parts.repository}"
  model_object = "arn:${local.partition}:s3:::${var.model_bucket}/${var.model_key}"
}

# SageMaker would create a missing log group itself, and keep its logs forever.
resource "aws_cloudwatch_log_group" "endpoint" {
  name              = "/aws/sagemaker/Endpoints/${var.name}"
  retention_in_days = var.log_retention_in_days
  tags              = var.tags
}

data "aws_iam_policy_document" "assume" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["sagemaker.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

data "aws_iam_policy_document" "execution" {
  statement {
    sid       = "ReadModel"
    actions   = ["s3:GetObject"]
    resources = [local.model_object]
  }

  dynamic "statement" {
    for_each = var.kms_key_arn == null ? [] : [var.kms_key_arn]

    content {
      sid       = "DecryptModel"
      actions   = ["kms:Decrypt"]
      resources = [statement.value]
    }
  }

  statement {
    sid = "PullImage"
    actions = [
      "ecr:BatchCheckLayerAvailability",
      "ecr:BatchGetImage",
      "ecr:GetDownloadUrlForLayer",
    ]
    resources = [local.repository]
  }

  # This action has no resources to limit it to.
  statement {
    sid       = "LogInToRegistry"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"]
  }

  statement {
    sid = "WriteLogs"
    actions = [
      "logs:CreateLogGroup",
      "logs:CreateLogStream",
      "logs:DescribeLogStreams",
      "logs:PutLogEvents",
    ]
    resources = [aws_cloudwatch_log_group.endpoint.arn, "${aws_cloudwatch_log_group.endpoint.arn}:*"]
  }

  # This action has no resources either; the condition limits it to the metrics of endpoints.
  statement {
    sid       = "WriteMetrics"
    actions   = ["cloudwatch:PutMetricData"]
    resources = ["*"]

    condition {
      test     = "StringEquals"
      variable = "cloudwatch:namespace"
      values   = ["/aws/sagemaker/Endpoints", "AWS/SageMaker"]
    }
  }
}

resource "aws_iam_role" "execution" {
  name_prefix        = "${var.name}-"
  assume_role_policy = data.aws_iam_policy_document.assume.json
  tags               = var.tags
}

resource "aws_iam_role_policy" "execution" {
  name_prefix = "${var.name}-"
  role        = aws_iam_role.execution.id
  policy      = data.aws_iam_policy_document.execution.json
}

resource "aws_sagemaker_model" "search" {
  execution_role_arn = aws_iam_role.execution.arn
  tags               = var.tags

  primary_container {
    image          = var.image_uri
    model_data_url = "s3://${var.model_bucket}/${var.model_key}"
  }

  lifecycle {
    create_before_destroy = true
  }

  depends_on = [aws_iam_role_policy.execution]
}

# An endpoint changes only if the name of its configuration changes, so every configuration gets a new name.
resource "aws_sagemaker_endpoint_configuration" "search" {
  name_prefix = "${var.name}-"
  tags        = var.tags

  production_variants {
    variant_name = "search"
    model_name   = aws_sagemaker_model.search.name

    serverless_config {
      memory_size_in_mb       = var.memory_size_in_mb
      max_concurrency         = var.max_concurrency
      provisioned_concurrency = var.provisioned_concurrency
    }
  }

  lifecycle {
    create_before_destroy = true

    precondition {
      condition     = var.provisioned_concurrency == null ? true : var.provisioned_concurrency <= var.max_concurrency
      error_message = "provisioned_concurrency must be at most max_concurrency."
    }

    precondition {
      condition     = local.image_parts.account == local.account && local.image_parts.region == data.aws_region.current.id
      error_message = "The image must be in the account and region of the endpoint."
    }
  }
}

resource "aws_sagemaker_endpoint" "search" {
  name                 = var.name
  endpoint_config_name = aws_sagemaker_endpoint_configuration.search.name
  tags                 = var.tags

  depends_on = [aws_cloudwatch_log_group.endpoint]
}

data "aws_iam_policy_document" "invoke" {
  statement {
    actions   = ["sagemaker:InvokeEndpoint"]
    resources = [aws_sagemaker_endpoint.search.arn]
  }
}

resource "aws_iam_policy" "invoke" {
  name_prefix = "${var.name}-invoke-"
  description = "Send requests to the endpoint ${var.name}."
  policy      = data.aws_iam_policy_document.invoke.json
  tags        = var.tags
}

resource "aws_iam_role_policy_attachment" "invoke" {
  for_each = var.invoker_role_names

  role       = each.value
  policy_arn = aws_iam_policy.invoke.arn
}
