# A Lambda function that searches the index in its image, behind a URL that takes requests signed by IAM roles.

resource "aws_cloudwatch_log_group" "function" {
  name              = "/aws/lambda/${var.name}"
  retention_in_days = var.log_retention_in_days
  tags              = var.tags
}

data "aws_iam_policy_document" "assume" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["lambda.amazonaws.com"]
    }
  }
}

# The function reads its model and index from its image: it needs no other permission than to write logs.
data "aws_iam_policy_document" "execution" {
  statement {
    sid = "WriteLogs"
    actions = [
      "logs:CreateLogStream",
      "logs:PutLogEvents",
    ]
    resources = ["${aws_cloudwatch_log_group.function.arn}:*"]
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

resource "aws_lambda_function" "search" {
  function_name                  = var.name
  description                    = "Product search by aisle"
  role                           = aws_iam_role.execution.arn
  package_type                   = "Image"
  image_uri                      = var.image_uri
  architectures                  = [var.architecture]
  memory_size                    = var.memory_size
  timeout                        = var.timeout
  reserved_concurrent_executions = var.reserved_concurrency
  tags                           = var.tags

  depends_on = [
    aws_cloudwatch_log_group.function,
    aws_iam_role_policy.execution,
  ]
}

resource "aws_lambda_function_url" "search" {
  function_name      = aws_lambda_function.search.function_name
  authorization_type = "AWS_IAM"
}

# A function URL takes both permissions; the second one only through the URL, not for a direct call of the function.
data "aws_iam_policy_document" "invoke" {
  statement {
    sid       = "CallUrl"
    actions   = ["lambda:InvokeFunctionUrl"]
    resources = [aws_lambda_function.search.arn]

    condition {
      test     = "StringEquals"
      variable = "lambda:FunctionUrlAuthType"
      values   = ["AWS_IAM"]
    }
  }

  statement {
    sid       = "CallFunctionThroughUrl"
    actions   = ["lambda:InvokeFunction"]
    resources = [aws_lambda_function.search.arn]

    condition {
      test     = "Bool"
      variable = "lambda:InvokedViaFunctionUrl"
      values   = ["true"]
    }
  }
}

resource "aws_iam_policy" "invoke" {
  name_prefix = "${var.name}-invoke-"
  description = "Send requests to the URL of the function ${var.name}."
  policy      = data.aws_iam_policy_document.invoke.json
  tags        = var.tags
}

resource "aws_iam_role_policy_attachment" "invoke" {
  for_each = var.invoker_role_names

  role       = each.value
  policy_arn = aws_iam_policy.invoke.arn
}
