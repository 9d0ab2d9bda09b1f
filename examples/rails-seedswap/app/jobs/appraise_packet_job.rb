class AppraisePacketJob < ApplicationJob
  def perform(packet) = packet.appraise
end
