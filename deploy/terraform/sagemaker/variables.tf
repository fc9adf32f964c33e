variable "name" {
  description = "Name of the endpoint, and the start of the names of its role, policies and model."
  type        = string

  validation {
    condition     = can(regex("^[a-zA-Z0-9](-*[a-zA-Z0-9]){0,31}$", var.name))
    error_message = "The name must have 1 to 32 letters, digits or hyphens, and start and end with a letter or digit."
  }
}

variable "image_uri" {
  description = "Image of the target `sagemaker` of deploy/Dockerfile, in an ECR repository of this account and region, by digest."
  type        = string

  validation {
    condition     = can(regex("^[0-9]{12}\\.dkr\\.ecr\\.[a-z0-9-]+\\.amazonaws\\.com(\\.cn)?/[a-z0-9._/-]+@sha256:[0-9a-f]{64}$", var.image_uri))
    error_message = "The image must be an ECR image by digest: ACCOUNT.dkr.ecr.REGION.amazonaws.com/REPOSITORY@sha256:DIGEST."
  }
}

variable "model_bucket" {
  description = "S3 bucket of the model.tar.gz that `aisle package --sagemaker` wrote."
  type        = string
}

variable "model_key" {
  description = "Key of the model.tar.gz in the bucket. A new package needs a new key, such as shop/2026-01-31/model.tar.gz."
  type        = string

  validation {
    condition     = endswith(var.model_key, ".tar.gz") && !strcontains(var.model_key, "*")
    error_message = "The key must end with .tar.gz and must not contain *."
  }
}

variable "memory_size_in_mb" {
  description = "Memory of a container; at least the size of the unpacked package and 500 MB."
  type        = number
  default     = 2048

  validation {
    condition     = contains([1024, 2048, 3072, 4096, 5120, 6144], var.memory_size_in_mb)
    error_message = "The memory must be 1024, 2048, 3072, 4096, 5120 or 6144 MB."
  }
}

variable "max_concurrency" {
  description = "Most requests at the same time; SageMaker refuses further requests."
  type        = number
  default     = 5

  validation {
    condition     = var.max_concurrency >= 1 && var.max_concurrency <= 200
    error_message = "The concurrency must be from 1 to 200."
  }
}

variable "provisioned_concurrency" {
  description = "Containers that are always ready, at most max_concurrency; null starts the first one with a request."
  type        = number
  default     = null
  nullable    = true
}

variable "kms_key_arn" {
  description = "KMS key that encrypts the model.tar.gz in S3; null if S3 encrypts it with its own key."
  type        = string
  default     = null
  nullable    = true
}

variable "invoker_role_names" {
  description = "IAM roles that may send requests to the endpoint."
  type        = set(string)
  default     = []
}

variable "log_retention_in_days" {
  description = "Days for which CloudWatch keeps the logs."
  type        = number
  default     = 30
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
  default     = {}
}
