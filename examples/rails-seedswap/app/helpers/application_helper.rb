module ApplicationHelper
  def germination_of(packet)
    packet.appraised? ? "#{packet.germination} % should germinate" : "not appraised yet"
  end
end
