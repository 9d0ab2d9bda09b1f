ENV["RAILS_ENV"] ||= "test"
require_relative "../config/environment"
require "rails/test_help"

class ActiveSupport::TestCase
  def offer(**attributes)
    Packet.create!(plant: "Tomato", variety: "Black Cherry", harvested_in: 2020, giver: "Ida", word: "trowel", **attributes)
  end
end
