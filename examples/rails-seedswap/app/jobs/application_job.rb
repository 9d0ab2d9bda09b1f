class ApplicationJob < ActiveJob::Base
  retry_on ActiveRecord::Deadlocked

  # The packet was swapped before its turn came.
  discard_on ActiveJob::DeserializationError
end
