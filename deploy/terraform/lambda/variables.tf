variable "name" {
  description = "Name of the function, and the start of the names of its role and policies."
  type        = string

  validation {
    condition     = can(regex("^[a-zA-Z0-9](-*[a-zA-Z0-9]){0,31}$", var.name))
    error_message = "The name must have 1 to 32 letters, digits or hyphens, and start and end with a letter or digit."
  }
}

variable "image_uri" {
  description = "Image of the target `lambda` of deploy/Dockerfile, in an ECR repository of this account and region, by digest."
  type        = string

  validation {
    condition     = can(regex("^[0-9]{12}\\.dkr\\.ecr\\.[a-z0-9-]+\\.amazonaws\\.com(\\.cn)?/[a-z0-9._/-]+@sha256:[0-9a-f]{64}$", var.image_uri))
    error_message = "The image must be an ECR image by digest: ACCOUNT.dkr.ecr.REGION.amazonaws.com/REPOSITORY@sha256:DIGEST."
  }
}

variable "architecture" {
  description = "Processor of the image."
  type        = string
  default     = "x86_64"

  validation {
    condition     = contains(["x86_64", "arm64"], var.architecture)
    error_message = "The architecture must be x86_64 or arm64."
  }
}

variable "memory_size" {
  description = "Memory in MB; at least the size of the package and 500 MB. Lambda gives a whole processor per 1,769 MB."
  type        = number
  default     = 2048

  validation {
    condition     = var.memory_size >= 512 && var.memory_size <= 10240
    error_message = "The memory must be from 512 to 10240 MB."
  }
}

variable "timeout" {
  description = "Seconds that a request may take, including the start of the function."
  type        = number
  default     = 60

  validation {
    condition     = var.timeout >= 10 && var.timeout <= 900
    error_message = "The timeout must be from 10 to 900 seconds."
  }
}

variable "reserved_concurrency" {
  description = "Most instances of the function at the same time; -1 for the limit of the account."
  type        = number
  default     = 10
}

variable "invoker_role_names" {
  description = "IAM roles that may send requests to the function URL."
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
