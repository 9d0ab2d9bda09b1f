require_relative "boot"

require "rails"
require "active_model/railtie"
require "active_job/railtie"
require "active_record/railtie"
require "action_controller/railtie"
require "action_view/railtie"
require "rails/test_unit/railtie"

Bundler.require(*Rails.groups)

module SeedSwap
  class Application < Rails::Application
    config.load_defaults 7.2

    # Redis is found by REDIS_URL.
    config.active_job.queue_adapter = :sidekiq
  end
end
