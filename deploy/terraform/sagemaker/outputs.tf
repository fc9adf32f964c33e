output "endpoint_name" {
  description = "EndpointName for InvokeEndpoint."
  value       = aws_sagemaker_endpoint.search.name
}

output "invoke_policy_arn" {
  description = "Policy that lets its owner send requests to the endpoint, and nothing else."
  value       = aws_iam_policy.invoke.arn
}

output "execution_role_arn" {
  description = "Role of the endpoint's containers."
  value       = aws_iam_role.execution.arn
}
