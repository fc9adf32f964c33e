output "url" {
  description = "URL of the service; requests are signed for the service `lambda` (SigV4)."
  value       = aws_lambda_function_url.search.function_url
}

output "invoke_policy_arn" {
  description = "Policy that lets its owner send requests to the URL, and nothing else."
  value       = aws_iam_policy.invoke.arn
}

output "function_name" {
  description = "Name of the function."
  value       = aws_lambda_function.search.function_name
}
